//! The message for the email queue: section 5 of the contract.

use std::time::Duration;

use lapin::BasicProperties;
use serde::Serialize;
use zeroize::Zeroizing;

use super::secret_json;
use crate::domain::notification::Notification;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    notification_id: &'a str,
    job_id: &'a str,
    org: &'a str,
    user_id: &'a str,
    to: &'a str,
    subject: &'a str,
    body: &'a str,
    temporary_password: &'a str,
    issued_at: String,
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
        .with_type("password-reset".into())
        .with_message_id(notification.issued.notification_id.as_str().into())
        .with_correlation_id(super::short(notification.job.as_str()))
        .with_expiration(ttl.as_millis().to_string().into());
    (body, properties)
}
