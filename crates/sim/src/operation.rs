//! One operation of a PATCH: `op`, `path` and `value` (RFC 7644, section 3.5.2), made into the changes it asks for.

use serde_json::{Map, Value};

use super::{
    attribute::{self, Attribute},
    invalid::{Invalid, ScimType},
    password::{self, Digest},
    settings::Forms,
};

/// What one path is to become. No `Debug`: it may hold a password's hash.
pub(super) struct Change {
    pub(super) path: String,
    pub(super) action: Action,
}

/// What is done with the value at a path.
pub(super) enum Action {
    Password(Digest),
    Add(Value),
    Replace(Value),
    Remove,
}

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Operations,
    Extensions,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Replace,
    Remove,
}

/// Reads one operation and appends its changes: one, or, where a core operation has no path, one for each attribute of
/// its value.
pub(super) fn read(operation: Value, place: Place, forms: Forms, changes: &mut Vec<Change>) -> Result<(), Invalid> {
    let Value::Object(mut fields) = operation else {
        return Err(Invalid::syntax("an operation must be an object"));
    };
    let op = read_op(fields.remove("op"))?;
    let path = read_path(fields.remove("path"))?;
    let value = fields.remove("value");
    if let Some(other) = fields.keys().next() {
        return Err(Invalid::syntax(format!("an operation has no field `{other}`")));
    }
    match (path, value) {
        (Some(path), value) => changes.push(change(op, path, value, place, forms)?),
        (None, Some(Value::Object(values))) if op != Op::Remove && place == Place::Operations => {
            return without_path(op, values, forms, changes);
        }
        (None, Some(_) | None) => {
            return Err(Invalid::new(ScimType::NoTarget, "an operation without `path` has no target here"));
        }
    }
    Ok(())
}

fn read_op(op: Option<Value>) -> Result<Op, Invalid> {
    let name = op.as_ref().and_then(Value::as_str).map(str::to_ascii_lowercase);
    match name.as_deref() {
        Some("add") => Ok(Op::Add),
        Some("replace") => Ok(Op::Replace),
        Some("remove") => Ok(Op::Remove),
        Some(_) | None => Err(Invalid::syntax("`op` must be add, replace or remove")),
    }
}

fn read_path(path: Option<Value>) -> Result<Option<String>, Invalid> {
    match path {
        None => Ok(None),
        Some(path) => match path.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Invalid::new(ScimType::InvalidPath, "`path` must be a string")),
        },
    }
}

fn without_path(op: Op, values: Map<String, Value>, forms: Forms, changes: &mut Vec<Change>) -> Result<(), Invalid> {
    if values.is_empty() {
        return Err(Invalid::new(ScimType::InvalidValue, "`value` has no attribute"));
    }
    for (path, value) in values {
        changes.push(change(op, path, Some(value), Place::Operations, forms)?);
    }
    Ok(())
}

fn change(op: Op, path: String, value: Option<Value>, place: Place, forms: Forms) -> Result<Change, Invalid> {
    let attribute = match place {
        Place::Operations => attribute::of_operation(&path, forms.extensions),
        Place::Extensions => attribute::of_extension(&path),
    };
    let Some(attribute) = attribute else {
        let detail = format!("path `{path}` names no attribute that can be patched here");
        return Err(Invalid::new(ScimType::InvalidPath, detail));
    };
    let action = action(op, attribute, &path, value, forms)?;
    Ok(Change { path, action })
}

fn action(op: Op, attribute: Attribute, path: &str, value: Option<Value>, forms: Forms) -> Result<Action, Invalid> {
    if op == Op::Remove {
        return match attribute.is_required() {
            true => Err(Invalid::new(ScimType::Mutability, format!("`{path}` cannot be removed"))),
            false => Ok(Action::Remove),
        };
    }
    let Some(value) = value else {
        return Err(Invalid::new(ScimType::InvalidValue, format!("`{path}` needs a `value`")));
    };
    if attribute == Attribute::Password {
        return password::read(&value, forms.password, forms.policy)
            .map(Action::Password)
            .map_err(|wrong| Invalid::new(ScimType::InvalidValue, wrong));
    }
    if let Some(wanted) = attribute.refuses(&value) {
        return Err(Invalid::new(ScimType::InvalidValue, format!("`{path}` must be {wanted}")));
    }
    match op {
        Op::Replace if value.is_null() => Ok(Action::Remove),
        Op::Replace => Ok(Action::Replace(value)),
        Op::Add | Op::Remove => Ok(Action::Add(value)),
    }
}
