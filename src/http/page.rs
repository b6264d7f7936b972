//! The page itself, the form that asks for the token, and the headers that keep both from being anything else.

use std::sync::{Arc, LazyLock};

use axum::Form;
use axum::extract::{Query, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, SET_COOKIE,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Shown;
use super::auth::Admission;

/// The page.
static PAGE: LazyLock<Html> = LazyLock::new(|| Html::new(include_str!("page.html")));
/// What a browser gets that did not show the token.
static SIGN_IN: LazyLock<Html> = LazyLock::new(|| Html::new(include_str!("sign_in.html")));
/// For what is no page.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

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
        sealed((status, kind, self.text).into_response(), &self.policy)
    }
}

fn inside<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(own, _)| own)
}

/// Kept by nobody, framed by nobody, taken for nothing else, and allowed what its policy says.
fn sealed(mut response: Response, policy: &str) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Made of our own text and hashes.
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// The page's data, to whoever may see it.
pub(super) fn data(response: impl IntoResponse) -> Response {
    sealed(response.into_response(), NOTHING)
}

/// The answer to a request for data that is not admitted.
pub(super) fn refusal(admission: Admission) -> Option<Response> {
    match admission {
        Admission::Granted => None,
        Admission::Refused => {
            let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"resetd\"")];
            let text = "http.token is wanted, as Authorization: Bearer\n";
            Some(data((StatusCode::UNAUTHORIZED, challenge, text)))
        }
        Admission::Misdirected => Some(data((
            StatusCode::MISDIRECTED_REQUEST,
            "ask for this page by an address, such as 127.0.0.1, or by localhost; to serve it under a name, set http.token\n",
        ))),
    }
}

/// The token, out of an address or a form.
#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    token: Option<SecretString>,
}

/// `GET /`: the page. With `?token=` it gives the cookie for it and leads back here, so that the token does not stay in the address.
pub(super) async fn show(
    State(shown): State<Arc<Shown>>,
    Query(Asked { token }): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    if let Some(token) = token {
        return enter(&shown, &token);
    }
    let admission = shown.guard.admits(&headers);
    match admission {
        Admission::Granted => PAGE.response(StatusCode::OK),
        Admission::Refused => SIGN_IN.response(StatusCode::UNAUTHORIZED),
        Admission::Misdirected => refusal(admission).unwrap_or_else(|| SIGN_IN.response(StatusCode::UNAUTHORIZED)),
    }
}

/// `POST /`: the form.
pub(super) async fn sign_in(State(shown): State<Arc<Shown>>, Form(Asked { token }): Form<Asked>) -> Response {
    match token {
        Some(token) => enter(&shown, &token),
        None => SIGN_IN.response(StatusCode::UNAUTHORIZED),
    }
}

fn enter(shown: &Shown, token: &SecretString) -> Response {
    match shown.guard.cookie(token.expose_secret()) {
        Some(cookie) => {
            let headers = [(LOCATION, HeaderValue::from_static("/")), (SET_COOKIE, cookie)];
            data((StatusCode::SEE_OTHER, headers))
        }
        None => SIGN_IN.response(StatusCode::UNAUTHORIZED),
    }
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
