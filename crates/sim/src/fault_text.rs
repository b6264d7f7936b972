//! The compact text of a fault for flags: `status=429,retry_after=2,next=3`, `cut,user=u1,next=1`.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::{Fault, FaultError};

/// Fields that may stand alone, as `cut` for `cut=true`.
const FLAGS: [&str; 4] = ["always", "cut", "revoke", "apply"];
/// Fields whose value is a number, or JSON, and not a text.
const JSON: [&str; 9] = ["next", "share", "seed", "always", "status", "cut", "revoke", "apply", "body"];

impl FromStr for Fault {
    type Err = FaultError;

    /// Reads `field=value` pairs between commas. A comma inside a value (an HTTP date, JSON) is kept where what follows
    /// it is no pair.
    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut fields = Map::new();
        for (name, value) in pairs(text)? {
            let value = if JSON.contains(&name.as_str()) { json(&value) } else { Value::String(value) };
            if fields.insert(name.clone(), value).is_some() {
                return Err(FaultError::Text(format!("`{name}` is there twice")));
            }
        }
        serde_json::from_value(Value::Object(fields)).map_err(|error| {
            let text = error.to_string();
            FaultError::Text(text.strip_prefix("fault: ").unwrap_or(&text).to_owned())
        })
    }
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, FaultError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in text.split(',') {
        if FLAGS.contains(&piece.trim()) {
            pairs.push((piece.trim().to_owned(), "true".to_owned()));
        } else if let Some((name, value)) = piece.split_once('=') {
            pairs.push((name.trim().to_owned(), value.trim().to_owned()));
        } else if let Some((_, value)) = pairs.last_mut() {
            value.push(',');
            value.push_str(piece);
        } else {
            return Err(FaultError::Text(format!("`{piece}` is no `field=value` pair")));
        }
    }
    Ok(pairs)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
