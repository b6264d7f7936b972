//! The headers of every answer, whatever it is: kept by nobody, framed by nobody, taken for nothing else, and allowed nothing that it
//! does not say itself.

use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};

/// For what says nothing else.
const ALL: [(HeaderName, HeaderValue); 7] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Puts those that are not there.
pub(super) fn seal(headers: &mut HeaderMap) {
    for (name, value) in ALL {
        // Some are set before, such as the page's own policy, and the `no-cache` of a stream of events, which is less.
        let is_own = name == CONTENT_SECURITY_POLICY && headers.contains_key(&name);
        if !is_own {
            headers.insert(name, value);
        }
    }
}
