//! Writes to stdout.

use std::io::{self, ErrorKind, Write};

use zeroize::Zeroizing;

use super::error::{ClientError, Exit};

/// Writes one line, which may hold a token, in one write, and then wipes the buffer.
pub fn line(parts: &[&[u8]]) -> Result<(), ClientError> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 1;
    // The buffer has its final size from the start: one that grows leaves copies of the token in memory.
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
