//! Data on standard output.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

use crate::domain::escape::escaped_json;

/// Writes a text and ends its line. Whoever read it and has gone away, such as `head`, had enough.
///
/// # Errors
/// Where it cannot be written for another reason.
pub(super) fn say(text: &str) -> Result<()> {
    say_to_reader(text).map(drop)
}

/// JSON, for programs and for people who look at it: nothing in it moves a terminal's cursor.
///
/// # Errors
/// As [`say`].
pub(super) fn json(text: &str) -> Result<bool> {
    say_to_reader(&escaped_json(text))
}

/// A text and the end of its line, and whether anybody reads it.
///
/// # Errors
/// As [`say`].
fn say_to_reader(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("writing to standard output"),
    }
}
