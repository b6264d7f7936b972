//! Logs by tracing, on stderr, as text or JSON. `docs/logging.md` lists the fields.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tracing::field::Field;
use tracing::{Level, Metadata};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::domain::escape::{Escaped, escaped_json, is_hidden};

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line of JSON for each event.
    Json,
    /// For people.
    Text,
}

/// The library that prints whole messages, password and all, when one is returned. All it logs comes back to us as an error.
const NEVER: &str = "lapin";

/// What hears our spans, and sends them to a collector.
pub type Traces = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging, and with it the traces where there are any; returns the most that is logged of `target`. `RUST_LOG` filters what is ours; of the
/// libraries only warnings and errors are ever let through, since
/// below that they print frames, headers and bodies. No setting changes that.
///
/// # Errors
/// Where the filter cannot be read or logging was started before.
pub fn start(
    format: Format,
    filter: Option<&str>,
    colours: bool,
    traces: Option<Traces>,
    target: &str,
) -> Result<LevelFilter, StartError> {
    let text = filter.unwrap_or("info");
    let filter = EnvFilter::from_str(text).map_err(|error| StartError::Filter(error.to_string()))?;
    let most = most_of(target, text).or(filter.max_level_hint()).unwrap_or(LevelFilter::TRACE);
    let layer: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Json => {
            let layer = fmt::layer().with_writer(|| JsonLines(std::io::stderr())).json();
            layer.flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        Format::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
            layer.fmt_fields(debug_fn(field).delimited(" ")).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(traces)
        .with(layer.with_filter(filter).with_filter(guard()))
        .try_init()
        .map_err(|error: TryInitError| StartError::Twice(error.to_string()))?;
    std::panic::set_hook(Box::new(|panic| {
        // The place alone: a panic's text may quote a value.
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        tracing::error!(%place, "panic in the worker's own code; please report it");
    }));
    Ok(most)
}

/// The most that is logged of a target, where the filter says no more than levels and targets.
fn most_of(target: &str, filter: &str) -> Option<LevelFilter> {
    let targets = Targets::from_str(filter).ok()?;
    let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
    let most = levels.into_iter().find(|level| targets.would_enable(target, level));
    Some(most.map_or(LevelFilter::OFF, LevelFilter::from_level))
}

/// A field of a line for people: whatever is in it stays on the line, is seen, and is no other field.
fn field(to: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    if field.name() == "message" {
        return write!(to, "{}", Escaped(format_args!("{value:?}")));
    }
    let value = format!("{value:?}");
    let value = Escaped(one_value(&value));
    match field.name() {
        name if to.has_ansi_escapes() => write!(to, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}"),
        name => write!(to, "{name}={value}"),
    }
}

/// A value as it stands, or in quotes where it would not end where it does: a text is in quotes already, by its `Debug`.
fn one_value(value: &str) -> Cow<'_, str> {
    let ends_early = |c: char| c.is_whitespace() || is_hidden(c) || matches!(c, '=' | '"');
    if is_quoted(value) || !(value.is_empty() || value.contains(ends_early)) {
        value.into()
    } else {
        format!("{value:?}").into()
    }
}

/// Whether a value is one text in quotes: none of its own is without a backslash.
fn is_quoted(value: &str) -> bool {
    let Some(inside) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        if c == '"' || (c == '\\' && chars.next().is_none()) {
            return false;
        }
    }
    true
}

/// Lines of JSON, each written whole, for programs and for people who look at them: what JSON leaves as it is and nobody sees is an
/// escape too.
struct JsonLines<W>(W);

impl<W: std::io::Write> std::io::Write for JsonLines<W> {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
        match std::str::from_utf8(lines) {
            Ok(text) => self.0.write_all(escaped_json(text).as_bytes())?,
            Err(_) => self.0.write_all(lines)?,
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter is not one.
    #[error("RUST_LOG cannot be read: {0}; it must be such as \"info\" or \"resetd=debug\"")]
    Filter(String),
    /// It was started before.
    #[error("logging: {0}")]
    Twice(String),
}

/// For a field `*_ms`: the 128 bits of [`Duration::as_millis`] would be text in a line of JSON.
pub fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

fn guard() -> FilterFn {
    filter_fn(may_be_logged)
}

/// Ours at any level; a library's from WARN up, and never of the one that prints messages. Spans are for the traces alone.
fn may_be_logged(event: &Metadata<'_>) -> bool {
    let target = event.target();
    let ours = target == "resetd" || target.starts_with("resetd::");
    event.is_event() && (ours || (*event.level() <= Level::WARN && !target.starts_with(NEVER)))
}

/// Warns of a private key that others on this machine can read; `key` is the configuration's.
pub fn warn_if_readable(key: &str, path: &Path) {
    warn(key, path, "private key");
}

/// The same of any other secret.
pub fn warn_if_secret_is_readable(key: &str, path: &Path) {
    warn(key, path, "secret");
}

fn warn(key: &str, path: &Path, what: &str) {
    if let Some(mode) = readable_by_others(path) {
        tracing::warn!(
            path = %path.display(), mode = format!("{mode:o}"),
            "{key}: others on this machine can read this {what}: chmod 600"
        );
    }
}

/// The mode of a file that others than its owner may read or write. The group's bits of a credential of systemd's are those of its access
/// control list, which names the service alone.
pub fn readable_by_others(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
    let is_credential = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder));
    let others = if is_credential { 0o007 } else { 0o077 };
    (mode & others != 0).then_some(mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_it_is_seen_to_end() {
        for (value, expected) in [
            ("job-1", "job-1"),
            ("a\\b", "a\\b"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a=b", r#""a=b""#),
            ("a\nb", r#""a\nb""#),
            ("a\u{a0}b", r#""a\u{a0}b""#),
            ("a\u{202e}b", r#""a\u{202e}b""#),
            (r#"a" b="c"#, r#""a\" b=\"c""#),
            (r#"""#, r#""\"""#),
            (r#""a" b="c""#, r#""\"a\" b=\"c\"""#),
            (r#""a\""#, r#""\"a\\\"""#),
            // A text's own Debug.
            (r#""a b""#, r#""a b""#),
            (r#""a \" b=\"c\\""#, r#""a \" b=\"c\\""#),
            (r#""""#, r#""""#),
        ] {
            assert_eq!(Escaped(one_value(value)).to_string(), expected, "{value}");
        }
    }
}
