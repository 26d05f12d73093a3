//! The settings of `msi-token keep`: its files, and the token in each.

use std::path::Path;

use nix::unistd::{Gid, Group};

use super::files::{self, SourceFile};
use super::names::{Audience, UserOrGroup};
use super::read::{Form, Names, Node, ReadFault, Reader, Visit};
use super::schema::{CLIENT_ID, OBJECT_ID, RESOURCE_ID};
use super::values::{Choice, OctalMode, Optional, quoted, text, whole_number};
use super::violation::FaultKind;
use super::{Account, Violation, Violations};
use crate::key::{Identity, Key, Resource};

/// `NAME_MAX` of linux/limits.h, less what a new file has around its name until it is whole.
const MAX_NAME: usize = 255 - "..new".len();
/// A host's name has at most 253 bytes, and a name in `PostgreSQL` 63.
const MAX_LOGIN: usize = 255;
const OWNER_ALONE: u32 = 0o600;
const WIDEST: u32 = 0o640;
const FOR_OWNER: u32 = 0o400;
const FOR_GROUP: u32 = 0o040;

/// One `[[file]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// The file's name in the program's directory.
    pub name: String,
    /// Which token.
    pub key: Key,
    /// The form of the content.
    pub format: FileFormat,
    /// Permission bits.
    pub mode: u32,
    /// The group that may read the file, if any.
    pub group: Option<Gid>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// The bare token, without a newline.
    Token,
    /// The daemon's answer without `expires_in`.
    Json,
    /// An HTTP header.
    Header,
    /// A line `NAME=TOKEN`, with this name.
    Env(String),
    /// A line of libpq's password file.
    Pgpass(Login),
    /// An `ExecCredential`.
    Kubernetes,
}

/// The login that a line of libpq's password file is for: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The server's name as the program connects to it; `None` for any.
    pub host: Option<String>,
    /// The server's port; `None` for any.
    pub port: Option<u16>,
    /// `None` for any.
    pub database: Option<String>,
    /// The role; `None` for any.
    pub user: Option<String>,
}

/// One `[[file]]` table as written.
#[derive(Default)]
struct FileDraft {
    name: Option<String>,
    resource: Option<Resource>,
    client_id: Option<Identity>,
    object_id: Option<Identity>,
    resource_id: Option<Identity>,
    format: Option<Word>,
    mode: Option<u32>,
    group: Option<Account>,
    env: Option<String>,
}

/// The formats by their words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Token,
    Json,
    Header,
    Env,
    Pgpass,
    Kubernetes,
}

/// A violation of a whole table: the key, what is wrong, the remedy.
type Wrong = (&'static str, String, String);

/// Reads the settings. Their file must be a regular one, not a link, belong to root or to the user of this process, be
/// writable by its owner alone, and stand in a directory of which the same is true, as all above it.
/// `is_own_group` tells which groups a file may have: a user can give files only to groups that the user is in.
///
/// # Errors
/// All that is wrong.
pub fn load(path: &Path, is_own_group: impl Fn(Gid) -> bool) -> Result<Vec<KeptFile>, Violations> {
    let mut violations = Vec::new();
    let mut files = Vec::new();
    if let Some(source) = files::read_one(path, &mut violations) {
        understand(&source, &is_own_group, &mut files, &mut violations);
        // The first answer to a request tells what is wrong with a resource or an identity.
        violations.retain(|violation| violation.class < FaultKind::Doubt);
        if files.is_empty() && violations.is_empty() {
            violations.push(Violation {
                file: source.path,
                line: None,
                key: None,
                what: "names no file".into(),
                remedy: "add a [[file]] with name and resource".into(),
                class: FaultKind::Value,
            });
        }
    }
    if violations.is_empty() {
        Ok(files)
    } else {
        Err(Violations::new(violations))
    }
}

fn understand(
    source: &SourceFile,
    is_own_group: &impl Fn(Gid) -> bool,
    files: &mut Vec<KeptFile>,
    violations: &mut Vec<Violation>,
) {
    let names = names();
    let (mut reader, root) = Reader::parse(source, &names, violations);
    let Some(mut root) = root else { return };
    for (origin, mut table) in reader.tables(&mut root, "file") {
        let login = reader.inner(&mut table, "pgpass", "file.pgpass").map(|left| {
            let mut login = Login::default();
            reader.table("file.pgpass", left, None, |v| login.keys(v));
            login
        });
        let mut draft = FileDraft::default();
        let given = reader.table("file", table, None, |v| draft.keys(v));
        let mut wrong = draft.wrong(&given, login.is_some());
        let group = draft.group.as_ref().map(|account| group(account, is_own_group));
        let group = group.transpose().unwrap_or_else(|reason| {
            wrong.push(reason);
            None
        });
        if let Some(name) = &draft.name
            && files.iter().any(|file| file.name == *name)
        {
            let what = format!("is the name of a file above: {name}");
            wrong.push(("file.name", what, "give each file a name of its own".into()));
        }
        for (key, what, remedy) in wrong {
            reader.note(Some(Violation::at(&origin, key, what, remedy)));
        }
        files.extend(draft.file(login, group));
    }
    reader.unknown_sections(&root);
}

fn names() -> Names {
    let mut names = Names::default();
    FileDraft::default().keys(names.enter("file"));
    names.all.push(("file", "pgpass"));
    Login::default().keys(names.enter("file.pgpass"));
    names
}

fn group(account: &Account, is_own: &impl Fn(Gid) -> bool) -> Result<Gid, Wrong> {
    let gid = match account {
        Account::Id(id) => Some(Gid::from_raw(*id)),
        Account::Name(name) => Group::from_name(name).ok().flatten().map(|group| group.gid),
    };
    let Some(gid) = gid else {
        let what = format!("does not exist: {account}");
        return Err(("file.group", what, "name a group that exists".into()));
    };
    if is_own(gid) {
        return Ok(gid);
    }
    let what = format!("is none of the groups of the user whose files these are: {account}");
    let remedy = format!("make the user a member (`usermod --append --groups {account} USER`) and restart the unit");
    Err(("file.group", what, remedy))
}

impl FileDraft {
    fn keys(&mut self, v: &mut impl Visit) {
        let words = Choice(&[
            ("token", Word::Token),
            ("json", Word::Json),
            ("header", Word::Header),
            ("env", Word::Env),
            ("pgpass", Word::Pgpass),
            ("kubernetes", Word::Kubernetes),
        ]);
        v.value("name", &mut self.name, &Optional(FileName));
        v.value("resource", &mut self.resource, &Optional(Audience));
        v.value("client_id", &mut self.client_id, &Optional(CLIENT_ID));
        v.value("object_id", &mut self.object_id, &Optional(OBJECT_ID));
        v.value("resource_id", &mut self.resource_id, &Optional(RESOURCE_ID));
        v.value("format", &mut self.format, &Optional(words));
        v.value("mode", &mut self.mode, &Optional(OctalMode));
        v.value("group", &mut self.group, &Optional(UserOrGroup));
        v.value("env", &mut self.env, &Optional(VariableName));
    }

    /// Checks which keys were given. A key with a bad value counts as given, since it is reported already.
    fn wrong(&self, given: &[&str], has_login: bool) -> Vec<Wrong> {
        let is_given = |key: &str| given.contains(&key);
        let mut all: Vec<Wrong> = Vec::new();
        let mut add = |key, what: &str, remedy: &str| all.push((key, what.into(), remedy.into()));
        if !is_given("name") {
            add("file", "has no name", "add name, such as name = \"storage.token\"");
        }
        if !is_given("resource") {
            let remedy = "add resource, such as resource = \"https://storage.azure.com/\"";
            add("file", "names no resource", remedy);
        }
        let selectors = ["client_id", "object_id", "resource_id"];
        if selectors.into_iter().filter(|key| is_given(key)).count() > 1 {
            let remedy = "keep one of client_id, object_id, resource_id, and add a [[file]] for each other one";
            add("file", "names more than one identity", remedy);
        }
        if is_given("format") == self.format.is_some() {
            let format = self.format.unwrap_or_default();
            if (format == Word::Env) != is_given("env") {
                let remedy = "set both, such as format = \"env\" and env = \"PGPASSWORD\", or neither";
                add("file.env", "and format = \"env\" belong together", remedy);
            }
            if (format == Word::Pgpass) != has_login {
                let remedy = "set both, such as format = \"pgpass\" and pgpass = { user = \"app\" }, or neither";
                add("file.pgpass", "and format = \"pgpass\" belong together", remedy);
            }
        }
        self.check_mode(is_given("group"), &mut add);
        all
    }

    fn check_mode(&self, has_group: bool, add: &mut impl FnMut(&'static str, &str, &str)) {
        let mode = self.mode.unwrap_or(OWNER_ALONE);
        if mode & !WIDEST != 0 {
            let what = format!("is wider than 0640: {mode:04o}");
            add(
                "file.mode",
                &what,
                "write mode = \"0640\" and name a group, or leave mode out",
            );
        } else if mode & FOR_OWNER == 0 {
            add(
                "file.mode",
                "keeps the file's owner out",
                "write mode = \"0600\", or leave mode out",
            );
        } else if self.format == Some(Word::Pgpass) && mode & FOR_GROUP != 0 {
            let what = "is too wide for a password file: libpq ignores one that others than its owner can read";
            add("file.mode", what, "leave mode and group out");
        } else if (mode & FOR_GROUP != 0) != has_group {
            let remedy = "write mode = \"0640\" and group = \"…\", or neither";
            add(
                "file.group",
                "and a mode that lets a group read belong together",
                remedy,
            );
        }
    }

    /// `None` if a needed key is missing, which is reported already.
    fn file(self, login: Option<Login>, group: Option<Gid>) -> Option<KeptFile> {
        let identity = self.client_id.or(self.object_id).or(self.resource_id);
        let format = match self.format.unwrap_or_default() {
            Word::Token => FileFormat::Token,
            Word::Json => FileFormat::Json,
            Word::Header => FileFormat::Header,
            Word::Env => FileFormat::Env(self.env?),
            Word::Pgpass => FileFormat::Pgpass(login?),
            Word::Kubernetes => FileFormat::Kubernetes,
        };
        Some(KeptFile {
            name: self.name?,
            key: Key::new(self.resource?, identity.unwrap_or(Identity::Default)),
            format,
            mode: self.mode.unwrap_or(OWNER_ALONE),
            group,
        })
    }
}

impl Login {
    fn keys(&mut self, v: &mut impl Visit) {
        v.value("host", &mut self.host, &Pattern);
        v.value("port", &mut self.port, &Optional(Port));
        v.value("database", &mut self.database, &Pattern);
        v.value("user", &mut self.user, &Pattern);
    }
}

/// A file's name without a directory. Names that begin with a dot are reserved for the program.
struct FileName;

/// A variable's name, as shells accept it.
struct VariableName;

/// A field of a password file; `*` stands for any.
struct Pattern;

/// Of a server.
struct Port;

impl Form<String> for FileName {
    fn read(&self, node: &Node<'_>) -> Result<String, Vec<ReadFault>> {
        let text = text(node)?;
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') && !text.starts_with('.');
        if plain && (1..=MAX_NAME).contains(&text.len()) {
            Ok(text.to_owned())
        } else {
            let what = format!(
                "must be the plain name of a file: 1 to {MAX_NAME} bytes of ASCII without space and slash, and no dot in front"
            );
            Err(ReadFault::bad(node, what))
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }

    fn example(&self) -> String {
        "\"storage.token\"".into()
    }
}

impl Form<String> for VariableName {
    fn read(&self, node: &Node<'_>) -> Result<String, Vec<ReadFault>> {
        let text = text(node)?;
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if plain && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) {
            Ok(text.to_owned())
        } else {
            Err(ReadFault::bad(node, "cannot be the name of a variable"))
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }

    fn example(&self) -> String {
        "\"PGPASSWORD\"".into()
    }
}

impl Form<Option<String>> for Pattern {
    fn read(&self, node: &Node<'_>) -> Result<Option<String>, Vec<ReadFault>> {
        let text = text(node)?;
        if text.is_empty() || text.len() > MAX_LOGIN || text.chars().any(char::is_control) {
            let what = format!("must be 1 to {MAX_LOGIN} bytes without control characters");
            Err(ReadFault::bad(node, what))
        } else if text.starts_with('#') {
            Err(ReadFault::bad(node, "begins as a comment does in a password file"))
        } else {
            Ok((text != "*").then(|| text.to_owned()))
        }
    }

    fn show(&self, value: &Option<String>) -> Option<String> {
        value.as_deref().map(quoted)
    }

    fn example(&self) -> String {
        "\"app\", or \"*\" for any".into()
    }
}

impl Form<u16> for Port {
    fn read(&self, node: &Node<'_>) -> Result<u16, Vec<ReadFault>> {
        if node.get_ref().as_integer().is_none() {
            return Err(ReadFault::wrong_type(node, "an integer"));
        }
        whole_number(node)
            .filter(|port| *port > 0)
            .ok_or_else(|| ReadFault::bad(node, "must be from 1 to 65535"))
    }

    fn show(&self, value: &u16) -> Option<String> {
        Some(value.to_string())
    }

    fn example(&self) -> String {
        "5432".into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const STORAGE: &str = "resource = \"https://storage.azure.com/\"\n";

    /// Whoever these files are for is in group 7 alone.
    fn loaded(text: &str) -> Result<Vec<KeptFile>, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        load(&path, |gid| gid.as_raw() == 7).map_err(|violations| {
            let place = directory.path().to_string_lossy().into_owned();
            let lines = violations.to_string();
            lines
                .lines()
                .map(|line| line.replace(&format!("{place}/"), ""))
                .collect()
        })
    }

    #[test]
    fn a_file_needs_a_name_and_a_resource_and_may_say_more() {
        let plain = loaded(&format!("[[file]]\nname = \"a\"\n{STORAGE}")).unwrap();
        assert_eq!(
            plain,
            [KeptFile {
                name: "a".to_owned(),
                key: Key::new(Resource::new("https://storage.azure.com/").unwrap(), Identity::Default),
                format: FileFormat::Token,
                mode: 0o600,
                group: None,
            }]
        );
        let full = loaded(&format!(
            "[[file]]\nname = \"a\"\n{STORAGE}client_id = \"C\"\nmode = \"0640\"\ngroup = \"7\"\nformat = \"env\"\nenv = \"P\"\n\
             [[file]]\nname = \"b\"\n{STORAGE}format = \"pgpass\"\n\
             pgpass = {{ host = \"h\", port = 5432, database = \"*\", user = \"app\" }}\n"
        ));
        let [env, pgpass] = full.unwrap().try_into().unwrap();
        assert_eq!((env.mode, env.group), (0o640, Some(Gid::from_raw(7))));
        assert_eq!(env.format, FileFormat::Env("P".to_owned()));
        assert_eq!(env.key.identity, Identity::client_id("c").unwrap());
        let login = Login {
            host: Some("h".to_owned()),
            port: Some(5432),
            database: None,
            user: Some("app".to_owned()),
        };
        assert_eq!(pgpass.format, FileFormat::Pgpass(login));
    }

    #[test]
    fn all_faults_are_told_at_once_with_line_key_and_remedy() {
        let faults = loaded(
            "[[file]]\nname = \"../etc/passwd\"\nresource = 7\nmode = \"0644\"\n\
             [[file]]\nformat = \"env\"\nclient_id = \"a\"\nobject_id = \"b\"\nuser = \"x\"\n\
             [[file]]\nname = \"x\"\nresource = \"r\"\nformat = \"pgpass\"\npgpass = { usr = \"a\", port = 0 }\nmode = \"0640\"\n\
             [[file]]\nname = \"x\"\nresource = \"r\"\nmode = \"0640\"\ngroup = \"8\"\n\
             [files]\n",
        )
        .unwrap_err();
        for part in [
            "app.toml:3: file.resource must be a string, not an integer",
            "app.toml:2: file.name must be the plain name of a file",
            "app.toml:1: file.mode is wider than 0640: 0644: write",
            "app.toml:5: file has no name: add name",
            "app.toml:5: file names no resource: add resource",
            "app.toml:5: file names more than one identity",
            "app.toml:5: file.env and format = \"env\" belong together",
            "app.toml:9: file.user is not known: move it below the line [file.pgpass]",
            "app.toml:14: file.pgpass.usr is not known: did you mean user?",
            "app.toml:14: file.pgpass.port must be from 1 to 65535: write for example port = 5432",
            "app.toml:10: file.mode is too wide for a password file",
            "app.toml:16: file.name is the name of a file above: x",
            "app.toml:16: file.group is none of the groups",
            "app.toml:21: files is not known here: did you mean file?",
        ] {
            assert!(
                faults.iter().any(|fault| fault.starts_with(part)),
                "{part} is not in {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 14, "{faults:#?}");
    }

    #[test]
    fn what_belongs_together_is_not_taken_alone() {
        let fault = |more: &str| loaded(&format!("[[file]]\nname = \"a\"\n{STORAGE}{more}\n")).unwrap_err();
        for (more, key) in [
            ("env = \"P\"", "file.env"),
            ("format = \"pgpass\"", "file.pgpass"),
            ("pgpass = { user = \"a\" }", "file.pgpass"),
            ("pgpass = \"a\"", "file.pgpass"),
            ("mode = \"0640\"", "file.group"),
            ("group = \"7\"", "file.group"),
            ("mode = \"0200\"", "file.mode"),
            (
                "group = \"no-such-group\"\nmode = \"0640\"",
                "file.group does not exist",
            ),
            ("format = \"env\"\nenv = \"A B\"", "file.env cannot be"),
            (
                "format = \"pgpass\"\npgpass = { host = \"#\" }",
                "file.pgpass.host begins",
            ),
        ] {
            let faults = fault(more);
            assert!(faults.len() == 1 && faults[0].contains(key), "{more}: {faults:?}");
        }
        assert_eq!(loaded("").unwrap_err().len(), 1);
    }
}
