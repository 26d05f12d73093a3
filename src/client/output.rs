//! The way to stdout.

use std::io::{self, ErrorKind, Write};

use zeroize::Zeroizing;

use super::error::{ClientError, Exit};

/// Writes one line, secrets included: in one piece, and wiped afterwards.
pub fn line(parts: &[&[u8]]) -> Result<(), ClientError> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
    // Sized once: a buffer that grows leaves copies of the secret behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole.push(b'\n');
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&whole).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ClientError::quiet(Exit::Other)),
        Err(error) => Err(ClientError::system("write to standard output", &error)),
    }
}
