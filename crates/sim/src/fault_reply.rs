//! The scripted answer of a fault with a `status`, out of its fields.

use axum::http::{HeaderValue, StatusCode};

use super::{
    fault::{FaultError, Reply, ReplyBody, Target},
    fault_fields::{Fields, refuse},
};

impl Fields {
    /// The answer that the fields script, for a status that is given.
    pub(super) fn reply(&self, number: u16) -> Result<Reply, FaultError> {
        let status = StatusCode::from_u16(number)
            .ok()
            .filter(|_| (200..600).contains(&number))
            .ok_or_else(|| refuse("status", &format!("is {number}; it must be from 200 to 599")))?;
        Ok(Reply {
            status,
            retry_after: self.retry_after()?,
            location: header("location", self.location.as_deref())?,
            content_type: header("content_type", self.content_type.as_deref())?,
            body: self.reply_body(status)?,
        })
    }

    fn retry_after(&self) -> Result<Option<HeaderValue>, FaultError> {
        let Some(value) = &self.retry_after else {
            return Ok(None);
        };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        header("retry_after", Some(&text))
    }

    /// The body asked for; else the one that `scim_type` and the endpoint suggest.
    fn reply_body(&self, status: StatusCode) -> Result<ReplyBody, FaultError> {
        let (scim_type, code) = (self.scim_type.clone(), self.code.clone());
        let body = match self.body.as_ref().map(|body| (body, body.as_str())) {
            Some((_, Some("scim"))) => ReplyBody::Scim { scim_type },
            Some((_, Some("genesys"))) => ReplyBody::Genesys { code },
            Some((_, Some("html"))) => ReplyBody::Html,
            Some((_, Some("none"))) => ReplyBody::None,
            Some((_, Some(other))) => {
                let wrong = format!("is `{other}`; write scim, genesys, html, none or a JSON value");
                return Err(refuse("body", &wrong));
            }
            Some((json, None)) => ReplyBody::Json(json.clone()),
            None if bodiless(status) => ReplyBody::None,
            None if scim_type.is_some() => ReplyBody::Scim { scim_type },
            None if self.target == Target::Token => ReplyBody::Oauth { code },
            None => ReplyBody::Genesys { code },
        };
        if bodiless(status) && body != ReplyBody::None {
            return Err(refuse("body", &format!("cannot be with `status` {}", status.as_u16())));
        }
        let (codes, types) = match &body {
            ReplyBody::Scim { .. } => (false, true),
            ReplyBody::Genesys { .. } | ReplyBody::Oauth { .. } => (true, false),
            ReplyBody::Json(_) | ReplyBody::Html | ReplyBody::None => (false, false),
        };
        match (&self.code, &self.scim_type) {
            (Some(_), _) if !codes => Err(refuse("code", "needs the genesys `body`")),
            (_, Some(_)) if !types => Err(refuse("scim_type", "needs the scim `body`")),
            _ => Ok(body),
        }
    }
}

fn header(field: &'static str, text: Option<&str>) -> Result<Option<HeaderValue>, FaultError> {
    let value = text.map(HeaderValue::from_str).transpose();
    value.map_err(|_| refuse(field, "cannot be written in a header"))
}

/// Whether HTTP forbids a body beside this status (RFC 9110, sections 15.3.5 and 15.4.5).
fn bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}
