//! An answer of the platform before it is written: its status, and a body in one of the styles Genesys Cloud has.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};

use super::{invalid::Invalid, quota::Standing};

const ERROR_SCHEMA: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
const SCIM_JSON: HeaderValue = HeaderValue::from_static("application/scim+json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const LOGIN_PAGE: &str = "<!DOCTYPE html><html><title>Sign in</title><p>Sign in to use this network.</p></html>";
const PLAIN_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer of a SCIM or platform endpoint.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<HeaderValue>,
    /// What none of the platform's own answers has.
    pub(super) foreign: Option<Box<Foreign>>,
    pub(super) content: Content,
}

/// Headers of an answer that is not the platform's.
#[derive(Default)]
pub(super) struct Foreign {
    pub(super) location: Option<HeaderValue>,
    /// In place of the one that the content has.
    pub(super) content_type: Option<HeaderValue>,
}

/// The body of an answer.
pub(super) enum Content {
    /// None at all.
    Empty,
    /// A SCIM resource or list.
    Resource(Box<Value>),
    /// A SCIM error (RFC 7644, section 3.12).
    Scim { scim_type: Option<String>, detail: String },
    /// An error of the platform itself.
    Genesys { code: String, message: String },
    /// Anything, as `application/json`.
    Json(Box<Value>),
    /// A page for people, which no endpoint of the platform has.
    Html,
}

impl Answer {
    pub(super) fn new(status: StatusCode, content: Content) -> Self {
        Self { status, retry_after: None, foreign: None, content }
    }

    pub(super) fn ok(resource: Value) -> Self {
        Self::new(StatusCode::OK, Content::Resource(Box::new(resource)))
    }

    pub(super) fn scim(status: StatusCode, detail: &str) -> Self {
        Self::new(status, Content::Scim { scim_type: None, detail: detail.to_owned() })
    }

    pub(super) fn genesys(status: StatusCode, code: &str, message: &str) -> Self {
        let (code, message) = (code.to_owned(), message.to_owned());
        Self::new(status, Content::Genesys { code, message })
    }

    /// Writes the answer with the headers that every SCIM answer has; `standing` is `None` where there is no quota.
    pub(super) fn into_response(self, standing: Option<Standing>) -> Response {
        let correlation = correlation_id();
        let (kind, body) = self.content.render(self.status, &correlation);
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let foreign = self.foreign.map(|foreign| *foreign).unwrap_or_default();
        if let Some(kind) = foreign.content_type.or(kind) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after);
        }
        if let Some(location) = foreign.location {
            headers.insert(header::LOCATION, location);
        }
        if let Ok(correlation) = HeaderValue::from_str(&correlation) {
            headers.insert("inin-correlation-id", correlation);
        }
        if let Some(standing) = standing {
            headers.insert("inin-ratelimit-count", HeaderValue::from(standing.count));
            headers.insert("inin-ratelimit-allowed", HeaderValue::from(standing.allowed));
            headers.insert("inin-ratelimit-reset", HeaderValue::from(standing.reset));
        }
        response
    }
}

impl Content {
    fn render(self, status: StatusCode, correlation: &str) -> (Option<HeaderValue>, Body) {
        let (kind, value) = match self {
            Self::Empty => return (None, Body::empty()),
            Self::Html => return (Some(HTML), Body::from(LOGIN_PAGE)),
            Self::Resource(value) => (SCIM_JSON, *value),
            Self::Json(value) => (PLAIN_JSON, *value),
            Self::Genesys { code, message } => (
                PLAIN_JSON,
                json!({
                    "message": message, "code": code, "status": status.as_u16(), "contextId": correlation,
                    "details": [], "errors": [],
                }),
            ),
            Self::Scim { scim_type, detail } => {
                let mut value = json!({"schemas": [ERROR_SCHEMA], "status": status.as_str(), "detail": detail});
                if let Some(scim_type) = scim_type {
                    value["scimType"] = Value::String(scim_type);
                }
                (SCIM_JSON, value)
            }
        };
        (Some(kind), Body::from(value.to_string()))
    }
}

impl From<Invalid> for Answer {
    fn from(invalid: Invalid) -> Self {
        let scim_type = Some(invalid.scim_type.as_str().to_owned());
        let detail = invalid.detail.into_owned();
        Self::new(StatusCode::BAD_REQUEST, Content::Scim { scim_type, detail })
    }
}

/// A random id in the form of a UUID: what support asks for.
fn correlation_id() -> String {
    let hex = hex::encode(rand::random::<[u8; 16]>());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
