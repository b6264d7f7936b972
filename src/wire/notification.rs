//! The message for the email queue: section 5 of the contract.

use std::time::Duration;

use lapin::BasicProperties;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{schema, secret_json};
use crate::domain::notification::Notification;

/// The `type` of the message.
pub const TYPE: &str = "password-reset";

/// What tells the person, for whoever sends mails. It holds the password.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Notification")]
struct Body<'a> {
    /// One for each password set, and the `message_id` too: a repeated one may be dropped.
    notification_id: &'a str,
    /// The job it comes from; the `correlation_id` too.
    job_id: &'a str,
    /// The org's name in the worker's configuration.
    org: &'a str,
    /// Whose password was set: the id at the org.
    user_id: &'a str,
    /// Who is told.
    to: &'a str,
    /// One line; it never holds the password.
    subject: &'a str,
    /// The text, with the password in it.
    body: &'a str,
    /// The password alone, for who writes a text of their own.
    temporary_password: &'a str,
    /// When the org confirmed that it is set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
}

/// What the email queue gets.
pub fn schema() -> Schema {
    schema::of::<Body<'_>>()
}

/// Body and properties. The bytes hold the password and zero themselves.
pub fn message(notification: &Notification<'_>, ttl: Duration) -> (Zeroizing<Vec<u8>>, BasicProperties) {
    let text = notification.template.body(notification.password);
    let body = secret_json(&Body {
        notification_id: &notification.issued.notification_id,
        job_id: notification.job.as_str(),
        org: notification.org,
        user_id: notification.user.as_str(),
        to: notification.to.as_str(),
        subject: notification.template.subject(),
        body: &text,
        temporary_password: notification.password.expose(),
        issued_at: super::moment(notification.issued.at),
    });
    let properties = super::persistent()
        .with_type(TYPE.into())
        .with_message_id(notification.issued.notification_id.as_str().into())
        .with_correlation_id(super::short(notification.job.as_str()))
        .with_expiration(ttl.as_millis().to_string().into());
    (body, properties)
}
