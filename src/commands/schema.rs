//! What the messages look like, for programs: one JSON Schema, or the AsyncAPI document with all of them. It needs no configuration.

use anyhow::{Context, Result};
use schemars::Schema;
use serde_json::Value;

use super::stdout::say;
use crate::wire::{job, notification, outcome};

mod asyncapi;

/// What `schema` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One message's JSON Schema; without it the AsyncAPI document of all messages.
    #[arg(value_enum, value_name = "MESSAGE")]
    message: Option<Message>,
}

/// The messages that other programs write or read.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Message {
    /// What a producer sends.
    Job,
    /// What the email queue gets.
    Notification,
    /// The same where notification.seal_to is set.
    SealedNotification,
    /// What the exchange of outcomes gets.
    Outcome,
    /// What a job's reply_to gets.
    Reply,
}

/// Prints it.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let document = match args.message {
        None => asyncapi::document(),
        Some(Message::Job) => alone(job::schema::schema()),
        Some(Message::Notification) => alone(notification::schema()),
        Some(Message::SealedNotification) => alone(notification::sealed_schema()),
        Some(Message::Outcome) => alone(outcome::schema()),
        Some(Message::Reply) => alone(outcome::reply_schema()),
    };
    say(&serde_json::to_string_pretty(&document).context("writing JSON")?)
}

/// A schema that says by itself which draft it is of.
fn alone(schema: Schema) -> Value {
    let mut document = serde_json::Map::new();
    document.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    document.extend(Value::from(schema).as_object().cloned().unwrap_or_default());
    document.into()
}
