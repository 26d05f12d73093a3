//! Real processes for the tests: a stand-in endpoint and a daemon in a private directory, and a plain client.
//!
//! Nothing here reaches anything but loopback: a daemon whose configuration names no endpoint is not started.

#![allow(dead_code, reason = "each test crate uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub const TOKEND: &str = env!("CARGO_BIN_EXE_msi-tokend");
pub const TOKEN: &str = env!("CARGO_BIN_EXE_msi-token");
pub const EMULATOR: &str = env!("CARGO_BIN_EXE_msi-emulator");

pub const STORAGE: &str = "https://storage.azure.com/";
pub const MANAGEMENT: &str = "https://management.azure.com/";

/// Generous, since these machines are busy: it is only reached by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `msi-emulator serve`.
pub struct Emulator {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    arguments: Vec<String>,
}

impl Emulator {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", arguments.iter().map(ToString::to_string).collect())
    }

    /// At an address; one that is not loopback needs `--any-address`, and a network namespace of the test's own.
    pub fn start_at(listen: &str, arguments: Vec<String>) -> Self {
        let mut child = Command::new(EMULATOR)
            .args(["serve", "--listen", listen])
            .args(&arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .expect("the stand-in says where it listens")
            .to_owned();
        Self {
            child,
            address,
            arguments,
        }
    }

    /// Makes the stand-in misbehave by a script of `[[fault]]` steps.
    pub fn script(&self, toml: &str) {
        let reply = self.control("PUT", "/emulator/script", toml);
        assert!(reply.status < 300, "{}", reply.body);
    }

    /// Replaces the identities of the pretended VM.
    pub fn identities(&self, toml: &str) {
        let reply = self.control("PUT", "/emulator/identities", toml);
        assert!(reply.status < 300, "{}", reply.body);
    }

    /// The token requests so far: `{"count", "requests": […]}`.
    pub fn requests(&self) -> Value {
        self.control("GET", "/emulator/requests", "").json()
    }

    /// How many token requests there were.
    pub fn count(&self) -> u64 {
        self.requests()["count"].as_u64().unwrap()
    }

    /// `{"max_concurrent", "max_in_one_second"}`
    pub fn peak(&self) -> Value {
        self.control("GET", "/emulator/peak", "").json()
    }

    /// Ends the process: the port refuses connections from here on.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Comes back on the same port after [`Emulator::stop`].
    pub fn restart(&mut self) {
        let arguments = std::mem::take(&mut self.arguments);
        *self = Self::start_at(&self.address.clone(), arguments);
    }

    fn control(&self, method: &str, path: &str, body: &str) -> Reply {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, &request(method, path, &[], body))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A running `msi-tokend` on a socket of its own.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    how: How,
}

/// How a daemon is run, where not as the test itself runs.
#[derive(Clone, Default)]
pub struct How {
    /// As this user, without groups. Needs root.
    pub uid: Option<u32>,
    /// Shell commands to run first in its place.
    pub shell: Option<&'static str>,
    /// More variables.
    pub environment: Vec<(&'static str, String)>,
}

impl Daemon {
    /// A daemon in front of `emulator`; `config` is added to what names the endpoint and the socket, and may set more
    /// keys of `[upstream]` first.
    pub fn start(emulator: &Emulator, config: &str) -> Self {
        Self::with_config(&format!("{}{config}\n", upstream(emulator)))
    }

    /// Like [`Daemon::start`], but run otherwise.
    pub fn start_how(emulator: &Emulator, config: &str, how: How) -> Self {
        Self::with_config_how(&format!("{}{config}\n", upstream(emulator)), how)
    }

    /// A daemon with a whole configuration but for `[listen] socket`, which is added in a drop-in.
    pub fn with_config(config: &str) -> Self {
        Self::with_config_how(config, How::default())
    }

    pub fn with_config_how(config: &str, how: How) -> Self {
        let directory = directory();
        if let Some(uid) = how.uid {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(uid)).unwrap();
        }
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        let socket = directory.path().join("s");
        write(
            &directory.path().join("conf.d/socket.toml"),
            &format!("[listen]\nsocket = \"{}\"\n", socket.display()),
        );
        let mut daemon = Self {
            child: Self::spawn(directory.path(), config, &how),
            directory,
            how,
        };
        daemon.await_socket();
        daemon
    }

    fn spawn(directory: &Path, config: &str, how: &How) -> Child {
        assert!(
            config.contains("endpoint ="),
            "a daemon in a test names its endpoint: the default one is somebody's"
        );
        write(&directory.join("config.toml"), config);
        // The build directory may be closed to other users.
        let program = directory.join("msi-tokend");
        if how.uid.is_some() && !program.exists() {
            install(TOKEND, &program, "711"); // as the package does
        }
        let program = if how.uid.is_some() { &program } else { Path::new(TOKEND) };
        let script = format!("{}\nexec \"$0\" \"$@\"", how.shell.unwrap_or(":"));
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        if let Some(uid) = how.uid {
            let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            command.args(["setpriv", &uid, &gid, "--clear-groups"]);
        }
        command
            .arg(program)
            .arg("--config")
            .arg(directory.join("config.toml"))
            .envs(how.environment.iter().cloned())
            .stderr(
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(directory.join("log"))
                    .unwrap(),
            )
            .spawn()
            .unwrap()
    }

    fn await_socket(&mut self) {
        let socket = self.socket();
        eventually("the daemon listens", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}: {}", self.log());
            }
            UnixStream::connect(&socket).is_ok()
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until it has written `text`: the log has a thread of its own.
    pub fn logs(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().code()
    }

    /// Starts it again after [`Daemon::stop`], on the same socket and with the configuration that is on disk now.
    pub fn start_again(&mut self) {
        let config = fs::read_to_string(self.config_path()).unwrap();
        self.child = Self::spawn(self.directory.path(), &config, &self.how);
        self.await_socket();
    }

    /// Replaces `config.toml` and sends SIGHUP; waits until the log says how it went.
    pub fn reload(&self, config: &str) {
        let before = self.log().matches("reload").count();
        write(&self.config_path(), config);
        self.signal(Signal::SIGHUP);
        eventually("the reload is over", || self.log().matches("reload").count() > before);
    }

    /// `GET target` with `Metadata: true`.
    pub fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &["Metadata: true"], "")
    }

    pub fn send(&self, method: &str, target: &str, headers: &[&str], body: &str) -> Reply {
        exchange(self.connect(), &request(method, target, headers, body))
    }

    /// The token of the metadata service's route for a resource that needs no encoding.
    pub fn token(&self, resource: &str) -> Reply {
        self.get(&format!(
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"
        ))
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The `access_token` of a 200.
    pub fn access_token(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// The part of a configuration that names the endpoint; more keys of `[upstream]` may follow.
pub fn upstream(emulator: &Emulator) -> String {
    let address = &emulator.address;
    format!("[upstream]\nendpoint = \"http://{address}/metadata/identity/oauth2/token\"\n")
}

/// A directory as the service's own: 0755, so that other users reach the socket in it.
pub fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// The programs where every user can run them.
pub fn programs() -> TempDir {
    let directory = directory();
    for program in [TOKEN, TOKEND] {
        install(program, directory.path(), "755");
    }
    directory
}

/// Copies a program, by another process: one that this process has open for writing while a test beside it forks is
/// "busy".
pub fn install(program: impl AsRef<Path>, to: &Path, mode: &str) {
    let program = program.as_ref();
    let installed = Command::new("install")
        .arg("-m")
        .arg(mode)
        .arg(program)
        .arg(to)
        .status();
    assert!(installed.unwrap().success());
}

/// Writes a file as an administrator would leave it, whole.
pub fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Waits for a condition; a test that waits for a time instead would be slow or wrong.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let rounds = PATIENCE.as_millis() / 20;
    for _ in 0..rounds {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain: {what}");
}

pub fn request(method: &str, target: &str, headers: &[&str], body: &str) -> String {
    bare_request(method, target, &[&["Host: localhost"], headers].concat(), body)
}

/// A request with these headers and no other, but for the connection's end and the body's length.
pub fn bare_request(method: &str, target: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    for header in headers {
        write!(text, "{header}\r\n").unwrap();
    }
    if !body.is_empty() {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    write!(text, "\r\n{body}").unwrap();
    text
}

/// Sends raw bytes and reads the one answer that ends with the connection.
pub fn exchange(mut stream: impl Read + Write, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Reply {
        status,
        headers,
        body: body.to_owned(),
    }
}
