//! A JSON document that grows with the number of keys, written key by key, so that nobody has to wait for all of it.

use std::io::{self, Write};

use serde::Serialize;

/// How a document ends whose last member is an array.
const END: &[u8] = b"]}";

/// A document whose last member is an array, to which items are added.
#[derive(Debug)]
pub struct OpenArray<W> {
    to: W,
    separator: &'static [u8],
}

impl<W: Write> OpenArray<W> {
    /// Begins with `document`, in which the array is empty.
    ///
    /// # Errors
    /// Those of `to`, and `document` has no array at its end.
    pub fn begin(mut to: W, document: &impl Serialize) -> io::Result<Self> {
        let empty = serde_json::to_vec(document)?;
        let start = empty.strip_suffix(END).ok_or(io::ErrorKind::InvalidInput)?;
        to.write_all(start)?;
        Ok(Self { to, separator: b"" })
    }

    /// One more item.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn push(&mut self, item: &impl Serialize) -> io::Result<()> {
        self.to.write_all(self.separator)?;
        self.separator = b",";
        Ok(serde_json::to_writer(&mut self.to, item)?)
    }

    /// The whole document is written.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn end(mut self) -> io::Result<W> {
        self.to.write_all(END)?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Document {
        text: &'static str,
        items: [u8; 0],
    }

    #[test]
    fn it_is_the_document_with_its_items() {
        let document = Document { text: "]}", items: [] };
        for (items, written) in [
            (&[] as &[u8], r#"{"text":"]}","items":[]}"#),
            (&[1], r#"{"text":"]}","items":[1]}"#),
            (&[1, 2, 3], r#"{"text":"]}","items":[1,2,3]}"#),
        ] {
            let mut array = OpenArray::begin(Vec::new(), &document).unwrap();
            for item in items {
                array.push(item).unwrap();
            }
            assert_eq!(String::from_utf8(array.end().unwrap()).unwrap(), written);
        }
    }

    #[test]
    fn a_document_that_ends_in_no_array_is_refused() {
        assert!(OpenArray::begin(Vec::new(), &"text").is_err());
    }
}
