//! The value of a field that should be text, read as far as a refusal needs it: what it is instead, and never what it says.

use serde_json::value::RawValue;

/// A field that should be text.
pub(super) enum Text {
    /// Not there, `null` or empty.
    Absent,
    /// Text.
    Given(String),
    /// What it is instead.
    Other(&'static str),
}

/// Reads it.
pub(super) fn text(value: Option<&RawValue>) -> Text {
    let Some(value) = value else { return Text::Absent };
    match serde_json::from_str::<Option<String>>(value.get()) {
        Ok(None) => Text::Absent,
        Ok(Some(text)) if text.is_empty() => Text::Absent,
        Ok(Some(text)) => Text::Given(text),
        Err(_) => Text::Other(shape_of(value.get())),
    }
}

/// What kind of JSON a text is, by its first character.
pub(super) fn shape_of(json: &str) -> &'static str {
    match json.trim_start().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}
