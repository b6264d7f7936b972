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

/// The same, sealed: nobody on the way can read the password.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "SealedNotification")]
struct SealedBody<'a> {
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
    /// A compact JWE (RSA-OAEP-256, A256GCM) to the key that its header names by `kid`. In it is JSON: `temporaryPassword` and `body`.
    sealed: &'a str,
    /// When the org confirmed that it is set.
    #[schemars(schema_with = "schema::moment")]
    issued_at: String,
}

/// What is sealed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Secret<'a> {
    temporary_password: &'a str,
    body: &'a str,
}

/// What the email queue gets.
pub fn schema() -> Schema {
    schema::of::<Body<'_>>()
}

/// What it gets where notifications are sealed.
pub fn sealed_schema() -> Schema {
    schema::of::<SealedBody<'_>>()
}

/// What is to be sealed of it. The bytes zero themselves.
pub fn secret(notification: &Notification<'_>) -> Zeroizing<Vec<u8>> {
    let body = notification.template.body(notification.password);
    secret_json(&Secret { temporary_password: notification.password.expose(), body: &body })
}

/// Body and properties. The bytes hold the password, unless its [`secret`] is given sealed, and zero themselves.
pub fn message(
    notification: &Notification<'_>,
    sealed: Option<&str>,
    ttl: Duration,
) -> (Zeroizing<Vec<u8>>, BasicProperties) {
    let (notification_id, job_id) = (notification.issued.notification_id.as_str(), notification.job.as_str());
    let (org, user_id, to) = (notification.org, notification.user.as_str(), notification.to.as_str());
    let (subject, issued_at) = (notification.template.subject(), super::moment(notification.issued.at));
    let body = match sealed {
        Some(sealed) => {
            secret_json(&SealedBody { notification_id, job_id, org, user_id, to, subject, sealed, issued_at })
        }
        None => {
            let body = notification.template.body(notification.password);
            let temporary_password = notification.password.expose();
            let body = &body;
            secret_json(&Body {
                notification_id,
                job_id,
                org,
                user_id,
                to,
                subject,
                body,
                temporary_password,
                issued_at,
            })
        }
    };
    let properties = super::persistent()
        .with_type(TYPE.into())
        .with_message_id(notification.issued.notification_id.as_str().into())
        .with_correlation_id(super::short(notification.job.as_str()))
        .with_expiration(ttl.as_millis().to_string().into());
    (body, properties)
}
