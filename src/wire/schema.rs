//! JSON Schemas of the twins: the parts that several share. A name that can only be one of some comes from the domain's own list.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::domain::job::Lane;
use crate::domain::outcome::{OutcomeKind, PasswordSet, Reason};

/// Control characters, for a class of a pattern.
pub(super) const CONTROL: &str = r"\x00-\x1f\x7f-\x9f";

/// What counts as if the field were not there.
pub(super) fn absent() -> Value {
    json!({"enum": [null, ""]})
}

/// The schema of what a type is written as: in one piece, to be printed alone or to be put into another document.
pub(super) fn of<T: JsonSchema>() -> Schema {
    generator().into_root_schema_for::<T>()
}

/// What `of` makes schemas with.
pub(super) fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.with(|settings| (settings.inline_subschemas, settings.meta_schema) = (true, None)).into_generator()
}

/// The same with a description.
pub(super) fn about(description: &str, mut schema: Schema) -> Schema {
    schema.insert("description".into(), description.into());
    schema
}

/// RFC 3339.
pub(super) fn moment(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// RFC 3339, or null.
pub(super) fn moment_or_null(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "format": "date-time"})
}

/// A lane's name.
pub(super) fn lane(_: &mut SchemaGenerator) -> Schema {
    one_of(Lane::ALL.map(Lane::as_str))
}

/// An outcome's name.
pub(super) fn outcome(_: &mut SchemaGenerator) -> Schema {
    one_of(OutcomeKind::ALL.map(OutcomeKind::as_str))
}

/// What is known of the password.
pub(super) fn password_set(_: &mut SchemaGenerator) -> Schema {
    one_of(PasswordSet::ALL.map(PasswordSet::as_str))
}

/// Why a job was dead-lettered.
pub(super) fn reason(_: &mut SchemaGenerator) -> Schema {
    one_of(Reason::ALL.map(Reason::as_str))
}

/// Why a job was dead-lettered, or null.
pub(super) fn reason_or_null(_: &mut SchemaGenerator) -> Schema {
    let names = Reason::ALL.into_iter().map(|reason| Some(reason.as_str()));
    let names: Vec<Option<&str>> = names.chain([None]).collect();
    json_schema!({"type": ["string", "null"], "enum": names})
}

fn one_of<const N: usize>(names: [&str; N]) -> Schema {
    json_schema!({"type": "string", "enum": names.to_vec()})
}
