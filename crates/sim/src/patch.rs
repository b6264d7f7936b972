//! The body of a PATCH, read strictly: RFC 7644, section 3.5.2, and the two wire forms of
//! `docs/contract.md#what-the-org-gets`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    attribute::ENVELOPE_SCHEMA,
    invalid::{Invalid, ScimType},
    operation::{self, Change, Place},
    settings::{ExtensionForm, Forms},
};

/// The schema of a PATCH body.
pub(super) const PATCH_SCHEMA: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

/// Reads a whole body into the changes it asks for, or none of them.
pub(super) fn parse(body: &[u8], forms: Forms) -> Result<Vec<Change>, Invalid> {
    let top = serde_json::from_slice(body)
        .map_err(|error| Invalid::syntax(format!("the body is no JSON at column {}", error.column())))?;
    let Value::Object(mut top) = top else {
        return Err(Invalid::syntax("the body must be an object"));
    };
    check_schemas(top.remove("schemas").as_ref())?;
    let operations = items(top.remove("Operations"), "Operations")?;
    let extensions = top.remove("Extensions");
    nothing_else(&top, "the body")?;

    let mut changes = Vec::with_capacity(operations.len());
    for operation in operations {
        operation::read(operation, Place::Operations, forms, &mut changes)?;
    }
    if let Some(extensions) = extensions {
        read_extensions(extensions, forms, &mut changes)?;
    }
    check_repeats(&changes)?;
    Ok(changes)
}

fn check_schemas(schemas: Option<&Value>) -> Result<(), Invalid> {
    match schemas.and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::String(schema)]) if schema == PATCH_SCHEMA => Ok(()),
        Some(_) | None => Err(Invalid::syntax(format!("`schemas` must be [\"{PATCH_SCHEMA}\"]"))),
    }
}

fn read_extensions(extensions: Value, forms: Forms, changes: &mut Vec<Change>) -> Result<(), Invalid> {
    if forms.extensions == ExtensionForm::Urn {
        return Err(Invalid::syntax("`Extensions` is no field of a PATCH; write extension paths as URNs"));
    }
    for extension in items(Some(extensions), "Extensions")? {
        let Value::Object(mut fields) = extension else {
            return Err(Invalid::syntax("an element of `Extensions` must be an object"));
        };
        if fields.remove("schema").as_ref().and_then(Value::as_str) != Some(ENVELOPE_SCHEMA) {
            return Err(Invalid::syntax(format!("`schema` of an extension must be {ENVELOPE_SCHEMA}")));
        }
        let operations = items(fields.remove("operations"), "operations")?;
        nothing_else(&fields, "an extension")?;
        for operation in operations {
            operation::read(operation, Place::Extensions, forms, changes)?;
        }
    }
    Ok(())
}

/// The elements of an array that must be there and must not be empty.
fn items(value: Option<Value>, name: &str) -> Result<Vec<Value>, Invalid> {
    match value {
        Some(Value::Array(items)) if !items.is_empty() => Ok(items),
        Some(_) | None => Err(Invalid::syntax(format!("`{name}` must be a non-empty array"))),
    }
}

fn nothing_else(fields: &Map<String, Value>, owner: &str) -> Result<(), Invalid> {
    match fields.keys().next() {
        Some(other) => Err(Invalid::syntax(format!("{owner} has no field `{other}`"))),
        None => Ok(()),
    }
}

fn check_repeats(changes: &[Change]) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    match changes.iter().find(|change| !seen.insert(change.path.as_str())) {
        Some(twice) => Err(Invalid::new(ScimType::InvalidPath, format!("path `{}` is there twice", twice.path))),
        None => Ok(()),
    }
}
