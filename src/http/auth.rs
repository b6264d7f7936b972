//! Who may see the page and its data: whoever knows `http.token`; where there is none, whoever is on this machine. In either case only
//! under a name that is ours.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::http::header::{AUTHORIZATION, COOKIE, FORWARDED, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::attempts::{Attempts, Failed};
use super::hosts::{Asked, Hosts};
use super::peer::Peer;
use crate::telemetry::metrics::{self, SignIn};

/// What the cookie is called in which a browser that has shown the token says so, before the port: a browser keeps the cookies of all
/// ports of a host together. It holds an end and a proof made with the token, not the token.
const COOKIE_NAME: &str = "resetd_page";
/// How long it counts.
const COOKIE_AGE: SignedDuration = SignedDuration::from_hours(12);
/// So many cookies are known to be right at once.
const MAX_KNOWN: usize = 256;
/// What a proxy says of how it was asked: the first of a list is what the client did.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether a request is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is, until that moment where it shows a cookie.
    Granted(Option<Timestamp>),
    /// It does not show the token.
    Refused,
    /// What it shows is not looked at: too many were wrong that came from there. After so long another one is.
    Limited(Duration),
    /// It is for a name that is not ours: a page of somebody else's may have made that name mean this machine.
    Misdirected,
}

/// What is asked of a request.
pub(super) struct Guard {
    secret: Option<Secret>,
    hosts: Hosts,
    /// That is listened at.
    port: u16,
    attempts: Attempts,
}

struct Secret {
    token: [u8; 32],
    key: hmac::Key,
    /// Cookies that were found to be right, until their end: whoever is signed in is let in though others from there guess.
    known: Mutex<HashMap<String, Timestamp>>,
}

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown<'a> {
    Token(&'a str),
    Cookie(&'a str),
}

/// What that is.
enum Looked {
    Right(Option<Timestamp>),
    /// A cookie that was right.
    Over,
    Wrong,
}

impl Guard {
    /// For what is served at that address.
    pub(super) fn new(token: Option<&SecretString>, listen: SocketAddr, allowed_hosts: &[String]) -> Self {
        let secret = token.map(|token| Secret::new(token.expose_secret()));
        let hosts = Hosts::new(listen.ip(), allowed_hosts);
        Self { secret, hosts, port: listen.port(), attempts: Attempts::default() }
    }

    /// Whether a request is for a name that is ours.
    pub(super) fn is_ours(&self, parts: &Parts) -> bool {
        self.hosts.admit(Asked::of(parts).as_ref().map_err(|no_host| *no_host))
    }

    /// Whether a request is admitted. What it shows may be looked at later, where others from there were wrong.
    pub(super) async fn admits(&self, parts: &Parts) -> Admission {
        let asked = Asked::of(parts);
        if !self.hosts.admit(asked.as_ref().map_err(|no_host| *no_host)) {
            return Admission::Misdirected;
        }
        let Some(secret) = &self.secret else { return Admission::Granted(None) };
        let name = self.cookie_name(asked.ok().flatten().as_ref(), &parts.headers);
        let Some(shown) = Shown::of(&parts.headers, &name) else { return Admission::Refused };
        let now = Timestamp::now();
        if let Shown::Cookie(cookie) = shown
            && let Some(until) = secret.knows(cookie, now)
        {
            return Admission::Granted(Some(until));
        }
        self.look(parts, || match shown {
            Shown::Token(token) if secret.is_token(token) => Looked::Right(None),
            Shown::Token(_) => Looked::Wrong,
            Shown::Cookie(cookie) => secret.cookie(cookie, now),
        })
        .await
    }

    /// The cookie for a browser that shows this token, or why there is none.
    pub(super) async fn enter(&self, parts: &Parts, token: &str) -> Result<HeaderValue, Admission> {
        let asked = Asked::of(parts);
        if !self.hosts.admit(asked.as_ref().map_err(|no_host| *no_host)) {
            return Err(Admission::Misdirected);
        }
        let Some(secret) = &self.secret else { return Err(Admission::Refused) };
        let looked = || if secret.is_token(token) { Looked::Right(None) } else { Looked::Wrong };
        match self.look(parts, looked).await {
            Admission::Granted(_) => {}
            other @ (Admission::Refused | Admission::Limited(_) | Admission::Misdirected) => return Err(other),
        }
        metrics::signed_in(SignIn::Granted);
        let name = self.cookie_name(asked.ok().flatten().as_ref(), &parts.headers);
        let until = Timestamp::now().checked_add(COOKIE_AGE).unwrap_or(Timestamp::MAX);
        let (value, age) = (secret.cookie_until(until), COOKIE_AGE.as_secs());
        secret.is_right(&value, until);
        let secure = if is_by_tls(&parts.headers) { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::try_from(cookie).map_err(|_| Admission::Refused)
    }

    /// Logs what failed, where that is due.
    pub(super) fn log(&self) {
        if let Some(Failed { wrong, unseen, from }) = self.attempts.to_log(Instant::now()) {
            let from = from.map(tracing::field::display);
            tracing::warn!(
                failed = wrong,
                refused_unseen = unseen,
                from,
                "failed sign-ins to the page since the last line of this kind: somebody shows a wrong http.token"
            );
        }
    }

    async fn look(&self, parts: &Parts, look: impl FnOnce() -> Looked) -> Admission {
        let from = parts.extensions.get::<Peer>().map(|peer| peer.0);
        match self.attempts.take(from, Instant::now()) {
            Ok(Duration::ZERO) => {}
            Ok(wait) => sleep(wait).await,
            Err(wait) => return self.failed(SignIn::Limited, Admission::Limited(wait)),
        }
        match look() {
            Looked::Right(until) => {
                self.attempts.give_back(from, Instant::now());
                Admission::Granted(until)
            }
            Looked::Over => {
                self.attempts.give_back(from, Instant::now());
                Admission::Refused
            }
            Looked::Wrong => {
                self.attempts.failed(from);
                self.failed(SignIn::Failed, Admission::Refused)
            }
        }
    }

    fn failed(&self, result: SignIn, admission: Admission) -> Admission {
        metrics::signed_in(result);
        self.log();
        admission
    }

    /// By the port that the client has asked at, which need not be ours: each of several workers behind one address has its own.
    fn cookie_name(&self, asked: Option<&Asked>, headers: &HeaderMap) -> String {
        let usual = if is_by_tls(headers) { 443 } else { 80 };
        let port = asked.map_or(self.port, |asked| asked.port.unwrap_or(usual));
        format!("{COOKIE_NAME}_{port}")
    }
}

impl Secret {
    fn new(token: &str) -> Self {
        let key = Sha256::new().chain_update("resetd page ").chain_update(token).finalize();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Self { token: Sha256::digest(token).into(), key, known: Mutex::default() }
    }

    fn is_token(&self, given: &str) -> bool {
        // Of hashes, so that neither length nor content decides how long it takes.
        let given: [u8; 32] = Sha256::digest(given).into();
        given.iter().zip(self.token).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
    }

    fn cookie_until(&self, until: Timestamp) -> String {
        let until = until.as_second().to_string();
        let proof = hmac::sign(&self.key, until.as_bytes());
        format!("{until}.{}", hex::encode(proof))
    }

    fn cookie(&self, cookie: &str, now: Timestamp) -> Looked {
        let parts = cookie.split_once('.').and_then(|(until, proof)| Some((until, hex::decode(proof).ok()?)));
        let Some((until, proof)) = parts else { return Looked::Wrong };
        if hmac::verify(&self.key, until.as_bytes(), &proof).is_err() {
            return Looked::Wrong;
        }
        let until = until.parse().ok().and_then(|until| Timestamp::from_second(until).ok());
        let Some(until) = until.filter(|until| *until > now) else { return Looked::Over };
        self.is_right(cookie, until);
        Looked::Right(Some(until))
    }

    fn is_right(&self, cookie: &str, until: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(cookie.to_owned(), until);
    }

    fn knows(&self, cookie: &str, now: Timestamp) -> Option<Timestamp> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(cookie).copied().filter(|until| *until > now)
    }
}

impl<'a> Shown<'a> {
    /// What is shown first: of several tokens in one request each would be a guess.
    fn of(headers: &'a HeaderMap, cookie_name: &str) -> Option<Self> {
        if let Some((scheme, token)) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '))
            && scheme.eq_ignore_ascii_case("bearer")
        {
            return Some(Self::Token(token.trim_start()));
        }
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|all| all.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == cookie_name).map(|(_, value)| Self::Cookie(value))
    }
}

/// Whether a proxy says that it was asked by TLS: `X-Forwarded-Proto`, or `Forwarded` (RFC 7239). Whoever says so without one gets a cookie
/// that their browser does not send back, and nothing more, so that it needs no list of proxies to be believed.
fn is_by_tls(headers: &HeaderMap) -> bool {
    let first = |name: HeaderName| headers.get(name)?.to_str().ok()?.split(',').next().map(str::trim);
    if let Some(proto) = first(FORWARDED_PROTO) {
        return proto.eq_ignore_ascii_case("https");
    }
    first(FORWARDED).is_some_and(|forwarded| {
        let mut pairs = forwarded.split(';').filter_map(|pair| pair.trim().split_once('='));
        let is_https = |value: &str| value.trim_matches('"').eq_ignore_ascii_case("https");
        pairs.any(|(name, value)| name.eq_ignore_ascii_case("proto") && is_https(value))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use axum::http::header::HOST;

    use super::*;

    const TOKEN: &str = "9f2c41d07be85a3366e1f0947cd2ab185e0b7f3a";

    fn guard() -> Guard {
        Guard::new(Some(&SecretString::from(TOKEN)), "127.0.0.1:9464".parse().unwrap(), &[])
    }

    fn parts(headers: &[(HeaderName, &str)]) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    async fn admits(guard: &Guard, headers: &[(HeaderName, &str)]) -> Admission {
        guard.admits(&parts(headers)).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_is_taken_as_a_bearer_and_nothing_else_is() {
        assert_eq!(admits(&guard(), &[]).await, Admission::Refused);
        for (value, admission) in [
            (format!("Bearer {TOKEN}"), Admission::Granted(None)),
            (format!("bearer  {TOKEN}"), Admission::Granted(None)),
            (format!("Basic {TOKEN}"), Admission::Refused),
            (TOKEN.to_owned(), Admission::Refused),
            (format!("Bearer {TOKEN}x"), Admission::Refused),
            (format!("Bearer {}", &TOKEN[1..]), Admission::Refused),
            ("Bearer ".to_owned(), Admission::Refused),
        ] {
            assert_eq!(admits(&guard(), &[(AUTHORIZATION, &value)]).await, admission, "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_is_given_for_the_token_alone_and_admits_until_its_end_without_holding_it() {
        let guard = guard();
        let here = (HOST, "localhost:9464");
        assert_eq!(guard.enter(&parts(std::slice::from_ref(&here)), "another-token").await, Err(Admission::Refused));
        let set = guard.enter(&parts(std::slice::from_ref(&here)), TOKEN).await.unwrap();
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict") && !set.contains(TOKEN), "{set}");
        let cookie = set.split(';').next().unwrap();
        let admitted = admits(&guard, &[here.clone(), (COOKIE, &format!("a=b; {cookie}; c=d"))]).await;
        let Admission::Granted(Some(until)) = admitted else { panic!("{admitted:?}") };
        let ahead = until.duration_since(Timestamp::now());
        assert!(ahead <= COOKIE_AGE && ahead > COOKIE_AGE - SignedDuration::from_secs(60), "{ahead:?}");
        let wrong = [
            format!("{cookie}0"),
            format!("x{cookie}"),
            format!("resetd_page_9464={TOKEN}"),
            "resetd_page_9464".into(),
        ];
        for wrong in wrong {
            assert_eq!(admits(&guard, &[here.clone(), (COOKIE, &wrong)]).await, Admission::Refused, "{wrong}");
        }
        let elsewhere = admits(&guard, &[(HOST, "localhost:9465"), (COOKIE, cookie)]).await;
        assert_eq!(elsewhere, Admission::Refused, "it is another worker's");
    }

    #[test]
    fn a_cookie_whose_time_is_over_is_not_a_wrong_one() {
        let secret = Secret::new(TOKEN);
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let cookie = secret.cookie_until(now + SignedDuration::from_secs(1));
        assert!(matches!(secret.cookie(&cookie, now), Looked::Right(Some(_))));
        assert!(secret.knows(&cookie, now).is_some());
        let later = now + SignedDuration::from_secs(1);
        assert!(matches!(secret.cookie(&cookie, later), Looked::Over) && secret.knows(&cookie, later).is_none());
        let other = Secret::new("another").cookie_until(later);
        assert!(matches!(secret.cookie(&other, now), Looked::Wrong));
        let put_off = cookie.replacen("1800000001", "1900000001", 1);
        assert!(matches!(secret.cookie(&put_off, now), Looked::Wrong) && secret.knows(&put_off, now).is_none());
    }

    #[test]
    fn whether_it_came_by_tls_is_what_the_first_proxy_says() {
        let by = |name: HeaderName, value: &str| is_by_tls(&parts(&[(name, value)]).headers);
        assert!(by(FORWARDED_PROTO, "https") && by(FORWARDED_PROTO, "HTTPS, http"));
        assert!(
            by(FORWARDED, "for=192.0.2.60;proto=https;by=203.0.113.43") && by(FORWARDED, "Proto=\"https\", proto=http")
        );
        assert!(!by(FORWARDED_PROTO, "http, https") && !by(FORWARDED, "for=https") && !is_by_tls(&HeaderMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_token_whoever_asks_for_this_machine_is_admitted_and_with_one_nobody_under_another_name() {
        let open = Guard::new(None, "127.0.0.1:9464".parse().unwrap(), &[]);
        assert_eq!(admits(&open, &[]).await, Admission::Granted(None));
        assert_eq!(admits(&open, &[(HOST, "localhost:9464")]).await, Admission::Granted(None));
        let bearer = (AUTHORIZATION, format!("Bearer {TOKEN}"));
        for guard in [open, guard()] {
            let rebound = [(HOST, "evil.example:9464"), (bearer.0.clone(), bearer.1.as_str())];
            assert_eq!(admits(&guard, &rebound).await, Admission::Misdirected);
            let entered = guard.enter(&parts(&rebound), TOKEN).await;
            assert_eq!(entered, Err(Admission::Misdirected));
        }
    }
}
