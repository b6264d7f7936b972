//! Data on standard output.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Writes a text and ends its line. Whoever read it and has gone away, such as `head`, had enough.
///
/// # Errors
/// Where it cannot be written for another reason.
pub(super) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}
