//! The token files and the state file, in one directory to which nobody else can write.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::client::error::{ClientError, Exit};
use crate::client::forms::{EXEC_V1, Issued, Text};
use crate::config::keep::{FileFormat, KeptFile};
use crate::directory::Directory;
use crate::replace::{Inode, remove, replace};

/// The state file. The settings accept no file name that begins with a dot.
pub const STATE: &str = ".state.json";
/// Everybody may read it: it holds no token, and `doctor` runs as any user.
const STATE_MODE: u32 = 0o644;
/// Far more than a state file needs.
const MAX_STATE: u64 = 4 * 1024 * 1024;

/// The directory, locked against a second process.
pub struct FileStore {
    directory: Directory,
    _lock: Flock<File>,
    /// One for each file, in the order of the settings.
    written: Vec<Option<Written>>,
}

/// What was written to a file.
struct Written {
    token: [u8; 32],
    inode: Inode,
}

/// The content of the state file, for the next process and for `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStates {
    pub files: Vec<FileState>,
}

/// The state of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    pub name: String,
    pub resource: String,
    pub identity: String,
    /// Seconds since 1970; none if there is no file.
    pub expires_on: Option<u64>,
    /// Why the file is missing, or is not renewed.
    pub trouble: Option<String>,
}

impl FileStore {
    /// # Errors
    /// Others can write to the directory, another process keeps files in it, or one of the names is taken by something
    /// else than a file of this user.
    pub fn open(path: &Path, files: &[KeptFile]) -> Result<Self, ClientError> {
        let refused = |cause: String, advice: String| ClientError::new(Exit::Configuration, cause, advice);
        let directory = Directory::open(path).map_err(|untrusted| {
            let advice = format!("Do this: {}.", untrusted.remedy);
            refused(format!("{} {}", untrusted.path.display(), untrusted.what), advice)
        })?;
        let lock = directory
            .open_file(OsStr::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|errno| ClientError::system(&format!("open {}", path.display()), &errno.into()))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => refused(
                format!("another process keeps files in {}", path.display()),
                "Stop it first, or name another directory with --directory.".to_owned(),
            ),
            errno => ClientError::system(&format!("lock {}", path.display()), &errno.into()),
        })?;
        let store = Self {
            directory,
            _lock: lock,
            written: files.iter().map(|_| None).collect(),
        };
        let strange = files.iter().filter_map(|file| store.look(&file.name).err());
        let strange: Vec<String> = strange.map(|error| error.to_string()).collect();
        if strange.is_empty() {
            Ok(store)
        } else {
            let advice = "Move it away, or give the file another name in the settings.".to_owned();
            Err(refused(
                format!("in {}: {}", path.display(), strange.join("; ")),
                advice,
            ))
        }
    }

    /// Writes the token to the file, unless the file already holds it. Returns whether it was written.
    ///
    /// # Errors
    /// The file's content is as before.
    pub fn keep(&mut self, index: usize, file: &KeptFile, issued: &Issued<'_>) -> io::Result<bool> {
        let token = Sha256::digest(issued.token()).into();
        let there = self.look(&file.name)?;
        let same = |written: &Written| {
            let untouched =
                |metadata: &Metadata| Inode::of(metadata) == written.inode && metadata.mode() & 0o7777 == file.mode;
            written.token == token && there.as_ref().is_some_and(untouched)
        };
        let Some(written) = self.written.get_mut(index) else {
            return Ok(false);
        };
        if written.as_ref().is_some_and(same) {
            return Ok(false);
        }
        let content = content(&file.format, issued);
        let inode = replace(&self.directory, OsStr::new(&file.name), &content, file.mode, file.group)?;
        *written = Some(Written { token, inode });
        Ok(true)
    }

    /// Removes a file of this user.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self.look(name)? {
            Some(_) => remove(&self.directory, OsStr::new(name)),
            None => Ok(()),
        }
    }

    /// The state that the former process left.
    pub fn former(&self) -> FileStates {
        let former = || {
            self.look(STATE).ok()??;
            let file = self.directory.open_file(OsStr::new(STATE), OFlag::O_RDONLY).ok()?;
            let mut text = String::new();
            file.take(MAX_STATE).read_to_string(&mut text).ok()?;
            let mut state: FileStates = serde_json::from_str(&text).ok()?;
            state
                .files
                .retain(|file| !file.name.contains('/') && !file.name.starts_with('.'));
            Some(state)
        };
        former().unwrap_or_default()
    }

    /// Writes the state file.
    pub fn tell(&self, state: &FileStates) -> io::Result<()> {
        let text = serde_json::to_vec(state).map_err(io::Error::other)?;
        replace(&self.directory, OsStr::new(STATE), &text, STATE_MODE, None).map(drop)
    }

    /// This user's plain file of that name, if the name exists.
    fn look(&self, name: &str) -> io::Result<Option<Metadata>> {
        let metadata = match self.directory.open_file(OsStr::new(name), OFlag::O_PATH) {
            Ok(file) => file.metadata()?,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let us = geteuid().as_raw();
        if !metadata.is_file() {
            Err(io::Error::other(format!("{name} exists and is no plain file")))
        } else if metadata.uid() != us {
            let owner = metadata.uid();
            Err(io::Error::other(format!(
                "{name} exists and belongs to uid {owner}, not to uid {us}"
            )))
        } else {
            Ok(Some(metadata))
        }
    }
}

/// A bare token has no newline at the end, since many programs use the file's content unchanged. The other forms are lines.
fn content(format: &FileFormat, issued: &Issued<'_>) -> Text {
    let mut text = match format {
        FileFormat::Token => return issued.bare(),
        FileFormat::Json => issued.document(),
        FileFormat::Header => issued.header(),
        FileFormat::Env(name) => issued.variable(name),
        FileFormat::Pgpass(login) => issued.pgpass(login),
        FileFormat::Kubernetes => issued.kubernetes(EXEC_V1),
    };
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::key::{Identity, Key, Resource};

    fn directory() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).unwrap();
        directory
    }

    fn file(name: &str) -> KeptFile {
        KeptFile {
            name: name.to_owned(),
            key: Key::new(Resource::new("https://r/").unwrap(), Identity::Default),
            format: FileFormat::Token,
            mode: 0o600,
            group: None,
        }
    }

    fn keep(store: &mut FileStore, token: &str) -> io::Result<bool> {
        let answer = serde_json::json!({
            "access_token": token, "expires_in": "60", "expires_on": "1764010000", "not_before": "0", "resource": "r",
        })
        .to_string();
        store.keep(0, &file("f"), &Issued::read(answer.as_bytes()).unwrap())
    }

    #[test]
    fn a_file_is_written_for_a_new_token_and_where_somebody_touched_it() {
        let directory = directory();
        let path = directory.path().join("f");
        let mut store = FileStore::open(directory.path(), &[file("f")]).unwrap();
        let mut changed = |token: &str| keep(&mut store, token).unwrap();
        assert_eq!(
            [changed("one"), changed("one"), changed("two"), changed("two")],
            [true, false, true, false]
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        fs::remove_file(&path).unwrap();
        assert!(changed("two"));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(changed("two"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_is_no_file_of_ours_is_refused_and_left_alone() {
        let directory = directory();
        let (elsewhere, link) = (directory.path().join("elsewhere"), directory.path().join("f"));
        fs::write(&elsewhere, "kept").unwrap();
        symlink(&elsewhere, &link).unwrap();
        let refused = FileStore::open(directory.path(), &[file("f"), file("g")])
            .err()
            .unwrap();
        assert!(
            refused.exit == Exit::Configuration && refused.cause.contains("f exists and is no plain file"),
            "{refused}"
        );
        fs::remove_file(&link).unwrap();
        let mut store = FileStore::open(directory.path(), &[file("f")]).unwrap();
        symlink(&elsewhere, &link).unwrap();
        keep(&mut store, "t").unwrap_err();
        store.remove("f").unwrap_err();
        if geteuid().is_root() {
            fs::remove_file(&link).unwrap();
            fs::write(&link, "kept").unwrap();
            std::os::unix::fs::chown(&link, Some(54_321), None).unwrap();
            let error = keep(&mut store, "t").unwrap_err();
            assert!(error.to_string().contains("uid 54321"), "{error}");
        }
        assert!(fs::read_to_string(&elsewhere).unwrap() == "kept" && fs::symlink_metadata(&link).is_ok());
    }

    #[test]
    fn a_directory_is_of_one_process_and_of_nobody_else() {
        let directory = directory();
        let store = FileStore::open(directory.path(), &[]).unwrap();
        let second = FileStore::open(directory.path(), &[]).err().unwrap();
        assert!(second.cause.contains("another process"), "{second}");
        drop(store);
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let open = FileStore::open(directory.path(), &[]).err().unwrap();
        assert!(open.advice.contains("chmod go-w"), "{open}");
    }

    #[test]
    fn the_next_process_learns_what_there_is() {
        let directory = directory();
        let store = FileStore::open(directory.path(), &[]).unwrap();
        assert_eq!(store.former(), FileStates::default());
        let mut state = FileStates {
            files: ["f", "../f"]
                .map(|name| FileState {
                    name: name.to_owned(),
                    resource: "r".to_owned(),
                    identity: "default".to_owned(),
                    expires_on: Some(7),
                    trouble: None,
                })
                .into(),
        };
        store.tell(&state).unwrap();
        state.files.truncate(1);
        assert_eq!(store.former(), state);
    }
}
