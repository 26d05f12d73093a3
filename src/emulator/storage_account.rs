//! A storage account whose keys Resource Manager's stand-in lists.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A storage account and its first key. The stand-in invents the second key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageAccount {
    pub(super) name: String,
    pub(super) key: String,
}

impl std::str::FromStr for StorageAccount {
    type Err = String;

    /// `NAME=KEY`, the key in base64.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, key) = text.split_once('=').ok_or("NAME=BASE64KEY is wanted")?;
        let is_name =
            (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !is_name {
            return Err(format!(
                "'{name}' is no account name: 3 to 24 lower-case letters and digits"
            ));
        }
        // The message does not show the key.
        STANDARD
            .decode(key)
            .map_err(|_| format!("the key of '{name}' is not base64"))?;
        Ok(Self {
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }
}
