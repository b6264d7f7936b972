//! The page itself, and the form that asks for the token, each with a policy of its own.

use std::sync::{Arc, LazyLock};

use axum::Form;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::auth::Admission;
use super::shown::Shown;

/// The page.
static PAGE: LazyLock<Html> = LazyLock::new(|| Html::new(include_str!("page.html")));
/// What a browser gets that did not show the token.
static SIGN_IN: LazyLock<Html> = LazyLock::new(|| Html::new(include_str!("sign_in.html")));

/// A document with everything in it, and the policy that allows just that.
struct Html {
    text: &'static str,
    policy: String,
}

impl Html {
    fn new(text: &'static str) -> Self {
        let allowed = |kind: &str, open: &str, close: &str| match inside(text, open, close) {
            Some(own) => {
                let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(own));
                format!("{kind} 'sha256-{hash}'; ")
            }
            None => String::new(),
        };
        let script = allowed("script-src", "<script>", "</script>");
        let style = allowed("style-src", "<style>", "</style>");
        let policy = format!(
            "default-src 'none'; {script}{style}img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        Self { text, policy }
    }

    fn response(&self, status: StatusCode) -> Response {
        let kind = [(CONTENT_TYPE, "text/html; charset=utf-8")];
        let mut response = (status, kind, self.text).into_response();
        // Made of our own text and hashes.
        if let Ok(policy) = HeaderValue::from_str(&self.policy) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

fn inside<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(own, _)| own)
}

/// The answer under a name that is not ours.
const MISDIRECTED: (StatusCode, &str) = (
    StatusCode::MISDIRECTED_REQUEST,
    "ask for this page by this machine's address or by localhost, or add the name to http.allowed_hosts\n",
);

/// The answer to a request for data that is not admitted.
pub(super) fn refusal(admission: Admission) -> Option<Response> {
    match admission {
        Admission::Granted(_) => None,
        Admission::Refused => {
            let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"resetd\"")];
            let text = "http.token is wanted, as Authorization: Bearer\n";
            Some((StatusCode::UNAUTHORIZED, challenge, text).into_response())
        }
        Admission::Limited(wait) => {
            let after = [(RETRY_AFTER, wait.as_secs().max(1).to_string())];
            let text = "too many tokens that came from this address were wrong: it is not looked at; try again later\n";
            Some((StatusCode::TOO_MANY_REQUESTS, after, text).into_response())
        }
        Admission::Misdirected => Some(MISDIRECTED.into_response()),
    }
}

/// The same to a browser: where only the token is missing, it is asked for.
fn form_or_refusal(admission: Admission) -> Option<Response> {
    match admission {
        Admission::Refused => Some(SIGN_IN.response(StatusCode::UNAUTHORIZED)),
        other @ (Admission::Granted(_) | Admission::Limited(_) | Admission::Misdirected) => refusal(other),
    }
}

/// `GET /`: the page.
pub(super) async fn show(State(shown): State<Arc<Shown>>, asked: Parts) -> Response {
    let admission = shown.guard.admits(&asked).await;
    form_or_refusal(admission).unwrap_or_else(|| PAGE.response(StatusCode::OK))
}

/// The form, filled in.
#[derive(Deserialize)]
pub(super) struct Filled {
    #[serde(default)]
    token: Option<SecretString>,
}

/// `POST /`: the form. It gives the cookie, and leads to the page. Under a name that is not ours nothing of it is looked at.
pub(super) async fn sign_in(State(shown): State<Arc<Shown>>, request: Request) -> Response {
    let (asked, body) = request.into_parts();
    if !shown.guard.is_ours(&asked) {
        return MISDIRECTED.into_response();
    }
    let request = Request::from_parts(asked.clone(), body);
    let Filled { token } = match Form::from_request(request, &()).await {
        Ok(Form(filled)) => filled,
        Err(rejection) => return rejection.into_response(),
    };
    let entered = match &token {
        Some(token) => shown.guard.enter(&asked, token.expose_secret()).await,
        None => Err(Admission::Refused),
    };
    let refused = match entered {
        Ok(cookie) => {
            let headers = [(LOCATION, HeaderValue::from_static("/")), (SET_COOKIE, cookie)];
            return (StatusCode::SEE_OTHER, headers).into_response();
        }
        Err(admission) => form_or_refusal(admission),
    };
    refused.unwrap_or_else(|| SIGN_IN.response(StatusCode::UNAUTHORIZED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documents_have_one_style_and_nothing_from_elsewhere() {
        for html in [&*PAGE, &*SIGN_IN] {
            assert_eq!(html.text.matches("<style").count(), 1);
            assert!(html.text.matches("<script").count() <= 1);
            for foreign in ["http://", "https://", "//cdn", "@import", "url(", " style=", " onclick", "innerHTML"] {
                let own = html.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!own.contains(foreign), "{foreign}");
            }
            assert!(html.policy.starts_with("default-src 'none'; ") && html.policy.contains("style-src 'sha256-"));
        }
        assert!(PAGE.policy.contains("script-src 'sha256-") && !SIGN_IN.policy.contains("script-src"));
    }
}
