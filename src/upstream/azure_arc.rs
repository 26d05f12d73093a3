//! The Azure Arc agent (`docs/protocol.md`, "Azure Arc's challenge"). It gives a token only to a client that can read a
//! short-lived file, which root and the group `himds` may read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use zeroize::Zeroizing;

use super::endpoint::Endpoint;
use crate::failure::{Cause, Class, Failure};
use crate::http::Response;

/// The agent's directory for these files on Linux.
const CHALLENGES: &str = "/var/opt/azcmagent/tokens";
/// The largest file that Microsoft's clients accept.
const MAX_SIZE: u64 = 4096;

/// <http://localhost:40342/metadata/identity/oauth2/token>
pub(super) struct AzureArc {
    directory: PathBuf,
}

impl AzureArc {
    pub(super) fn new() -> Self {
        Self {
            directory: CHALLENGES.into(),
        }
    }
}

impl Endpoint for AzureArc {
    fn parameters(&self, _bypass: bool) -> &'static [(&'static str, &'static str)] {
        &[("api-version", "2020-06-01")]
    }

    /// No error has the file's path or content: with the content, anybody gets a token from the agent.
    fn authorize(&self, answer: &Response) -> Option<Result<HeaderValue, Failure>> {
        (answer.status == StatusCode::UNAUTHORIZED).then(|| {
            let realm = answer
                .headers
                .get(WWW_AUTHENTICATE)
                .and_then(|value| value.to_str().ok());
            realm
                .and_then(|value| value.strip_prefix("Basic realm="))
                .ok_or("it names no file")
                .and_then(|realm| {
                    let path = Path::new(realm.trim_matches('"'));
                    authorization(&self.directory, path)
                })
                .map_err(|why| {
                    let text = format!("the agent's challenge cannot be answered: {why}");
                    Failure::new(Class::Faulty, Cause::Status, text).answered(answer.status.as_u16())
                })
        })
    }

    /// Old agents ignore the identity in a request and give a token of the machine's own (`docs/protocol.md`, "Answers",
    /// row "Echo of the identity").
    fn must_echo_identity(&self) -> bool {
        true
    }
}

/// Opens, checks and reads the file by one descriptor, so that it cannot be replaced in between.
fn authorization(directory: &Path, path: &Path) -> Result<HeaderValue, &'static str> {
    if path.parent() != Some(directory) || path.components().any(|part| part.as_os_str() == "..") {
        return Err("the file it names is not in the agent's directory");
    }
    if path.extension().is_none_or(|suffix| suffix != "key") {
        return Err("the file it names is no .key file");
    }
    // Without O_NONBLOCK, opening a FIFO would block.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file: File = openat2(AT_FDCWD, path, how)
        .map_err(|_| "the file it names cannot be opened; the daemon's user must be in the group himds")?
        .into();
    let meta = file.metadata().map_err(|_| "the file it names cannot be examined")?;
    if !meta.is_file() {
        return Err("the file it names is no regular file");
    }
    if meta.size() > MAX_SIZE {
        return Err("the file it names is larger than 4,096 bytes");
    }
    let mut header = Zeroizing::new(Vec::with_capacity(4096 + 8));
    header.extend_from_slice(b"Basic ");
    file.take(MAX_SIZE)
        .read_to_end(&mut header)
        .map_err(|_| "the file it names cannot be read")?;
    let mut value =
        HeaderValue::from_bytes(&header).map_err(|_| "the file it names has bytes that a header cannot have")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use hyper::HeaderMap;

    use super::*;

    fn challenge(arc: &AzureArc, realm: &str) -> Result<HeaderValue, Failure> {
        let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::try_from(realm).unwrap())]);
        let answer = Response {
            status: StatusCode::UNAUTHORIZED,
            headers,
            body: Zeroizing::default(),
        };
        arc.authorize(&answer).unwrap()
    }

    #[test]
    fn only_a_small_plain_key_file_in_the_agents_own_directory_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let arc = AzureArc {
            directory: directory.path().to_owned(),
        };
        fs::write(at("good.key"), "c2VjcmV0").unwrap();
        fs::write(at("largest.key"), "x".repeat(4096)).unwrap();
        fs::write(at("large.key"), "x".repeat(4097)).unwrap();
        fs::write(at("line.key"), "a\nb").unwrap();
        fs::write(at("good.txt"), "c2VjcmV0").unwrap();
        symlink(at("good.key"), at("link.key")).unwrap();
        fs::create_dir(at("directory.key")).unwrap();
        nix::unistd::mkfifo(&at("fifo.key"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let realm = |name: &str| format!("Basic realm={}", at(name).display());

        let good = challenge(&arc, &realm("good.key")).unwrap();
        assert_eq!(good, "Basic c2VjcmV0");
        assert!(good.is_sensitive());
        assert!(challenge(&arc, &realm("largest.key")).is_ok());
        for odd in [
            realm("large.key"),
            realm("line.key"),
            realm("good.txt"),
            realm("link.key"),
            realm("directory.key"),
            realm("fifo.key"),
            realm("no.key"),
            realm("sub/../good.key"),
            realm("../good.key"),
            "Basic realm=/etc/shadow".to_owned(),
            "Basic realm=".to_owned(),
            "Bearer".to_owned(),
            format!("Digest realm={}", at("good.key").display()),
        ] {
            let failure = challenge(&arc, &odd).unwrap_err();
            assert_eq!(failure.class, Class::Faulty, "{odd}");
            assert!(
                !failure.text.contains(".key") || failure.text.contains("no .key"),
                "{}",
                failure.text
            );
            assert!(!failure.text.contains("tmp"), "{}", failure.text);
        }
    }

    #[test]
    fn any_other_answer_is_no_challenge() {
        let answer = Response {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Zeroizing::default(),
        };
        assert!(AzureArc::new().authorize(&answer).is_none());
    }
}
