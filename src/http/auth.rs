//! Who may see the page and its data: whoever knows `http.token`; where there is none, whoever is on this machine.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use axum::http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The cookie in which a browser that has shown the token says so. It holds a hash made of the token, not the token.
const COOKIE_NAME: &str = "resetd_page";

/// Whether a request is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is.
    Granted,
    /// It does not show the token.
    Refused,
    /// There is no token, and it was sent to a name: a page of somebody else's may have made that name mean this machine.
    Misdirected,
}

/// What is asked of a request.
pub(super) struct Guard(Option<Expected>);

struct Expected {
    token: [u8; 32],
    cookie: String,
}

impl Guard {
    pub(super) fn new(token: Option<&SecretString>) -> Self {
        Self(token.map(|token| {
            let token = token.expose_secret();
            let cookie = Sha256::new().chain_update("resetd page ").chain_update(token).finalize();
            Expected { token: Sha256::digest(token).into(), cookie: hex::encode(cookie) }
        }))
    }

    pub(super) fn admits(&self, headers: &HeaderMap) -> Admission {
        let Some(expected) = &self.0 else {
            let here = headers.get(HOST).is_none_or(|host| host.to_str().is_ok_and(names_this_machine));
            return if here { Admission::Granted } else { Admission::Misdirected };
        };
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let bearer = shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && expected.is_token(token.trim_start())
        });
        if bearer || cookies(headers).any(|cookie| same(cookie.as_bytes(), expected.cookie.as_bytes())) {
            Admission::Granted
        } else {
            Admission::Refused
        }
    }

    /// The cookie for a browser that shows this token. `None`: it is not the one.
    pub(super) fn cookie(&self, token: &str) -> Option<HeaderValue> {
        let expected = self.0.as_ref().filter(|expected| expected.is_token(token))?;
        let cookie = format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Strict", expected.cookie);
        HeaderValue::try_from(cookie).ok()
    }
}

impl Expected {
    fn is_token(&self, given: &str) -> bool {
        // Of hashes, so that neither length nor content decides how long it takes.
        let given: [u8; 32] = Sha256::digest(given).into();
        same(&given, &self.token)
    }
}

/// Compares in the same time, wherever they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

/// The values of our cookie.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value)
}

/// An address, or the one name that nobody else can give a meaning to.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-some-length";

    fn guard() -> Guard {
        Guard::new(Some(&SecretString::from(TOKEN)))
    }

    fn admits(guard: &Guard, name: axum::http::HeaderName, value: &str) -> Admission {
        guard.admits(&HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]))
    }

    #[test]
    fn the_token_is_taken_as_a_bearer_and_nothing_else_is() {
        assert_eq!(guard().admits(&HeaderMap::new()), Admission::Refused);
        for (value, admission) in [
            (format!("Bearer {TOKEN}"), Admission::Granted),
            (format!("bearer  {TOKEN}"), Admission::Granted),
            (format!("Basic {TOKEN}"), Admission::Refused),
            (TOKEN.to_owned(), Admission::Refused),
            (format!("Bearer {TOKEN}x"), Admission::Refused),
            (format!("Bearer {}", &TOKEN[1..]), Admission::Refused),
            ("Bearer ".to_owned(), Admission::Refused),
        ] {
            assert_eq!(admits(&guard(), AUTHORIZATION, &value), admission, "{value}");
        }
    }

    #[test]
    fn a_cookie_is_given_for_the_token_alone_and_admits_without_holding_it() {
        assert_eq!(guard().cookie("another-token-of-some"), None);
        let set = guard().cookie(TOKEN).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict") && !set.contains(TOKEN), "{set}");
        let cookie = set.split(';').next().unwrap();
        assert_eq!(admits(&guard(), COOKIE, &format!("a=b; {cookie}; c=d")), Admission::Granted);
        for wrong in [format!("{cookie}0"), format!("x{cookie}"), format!("{COOKIE_NAME}={TOKEN}"), COOKIE_NAME.into()]
        {
            assert_eq!(admits(&guard(), COOKIE, &wrong), Admission::Refused, "{wrong}");
        }
    }

    #[test]
    fn without_a_token_whoever_reaches_this_machine_by_its_address_is_admitted() {
        let open = Guard::new(None);
        assert_eq!(open.admits(&HeaderMap::new()), Admission::Granted);
        for host in ["127.0.0.1:9464", "localhost:9464", "LocalHost", "[::1]:9464", "10.1.2.3"] {
            assert_eq!(admits(&open, HOST, host), Admission::Granted, "{host}");
        }
        for host in ["evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert_eq!(admits(&open, HOST, host), Admission::Misdirected, "{host}");
        }
    }
}
