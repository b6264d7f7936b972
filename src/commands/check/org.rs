//! Each org: its token, its scopes, its answer, its clock, and the rate it admits.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::SignedDuration;
use reqwest::Client;

use super::finding::Finding;
use crate::config::Config;
use crate::config::org::Org;
use crate::domain::token::TokenError;
use crate::scim::http_client;
use crate::scim::probe::{Seen, look};
use crate::scim::token::{Token, Tokens};

/// A clock that is further off than this is worth a word.
const SKEW: SignedDuration = SignedDuration::from_secs(10);
/// From here on a producer's `timestamp` counts as wrong, and `not-after` cuts off what should be done.
const FAR_OFF: SignedDuration = SignedDuration::from_mins(5);

/// Of all orgs that are complete, at the same time.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let http = match http_client(&config.http.proxy) {
        Ok(http) => http,
        Err(error) => return vec![Finding::fail("HTTPS", error.to_string(), "install CA certificates")],
    };
    let orgs = config.org_names().filter_map(|name| Some((name, config.org(name).ok()?)));
    let found = orgs.map(|(name, org)| of_one(http.clone(), name, org, config.retry.after_max));
    join_all(found).await.into_iter().flatten().collect()
}

async fn of_one(http: Client, name: &str, org: Org, after_max: Duration) -> Vec<Finding> {
    let tokens = Tokens::new(http.clone(), name, org.clone(), after_max);
    let token = tokens.current().await;
    let mut findings = vec![granted(&token)];
    findings.extend(token.as_ref().ok().and_then(|token| scopes(token, &org.required_scopes)));
    match look(&http, &org, token.as_ref().ok()).await {
        Err(why) => findings.push(Finding::fail(
            "org",
            format!("{} does not answer: {why}", org.scim_url),
            "check scim_url or region, the network, and any proxy between",
        )),
        Ok(seen) => {
            findings.push(answered(&seen, token.is_ok(), &org));
            if token.is_ok() {
                findings.extend(rate(&seen, org.rate_per_minute.get()));
            }
            findings.push(clock(seen.ahead));
        }
    }
    findings.into_iter().map(|finding| finding.of(name)).collect()
}

fn granted(token: &Result<Token, TokenError>) -> Finding {
    match token {
        Ok(_) => Finding::ok("token", "granted"),
        Err(TokenError::Refused(why)) => Finding::fail(
            "token",
            why,
            "fix the OAuth client or its keys in the configuration: no job is done without a token",
        ),
        Err(TokenError::Failed { why, .. }) => {
            Finding::fail("token", why, "check token_url or region and the network; a worker tries again by itself")
        }
    }
}

/// Only where somebody speaks of scopes.
fn scopes(token: &Token, required: &[String]) -> Option<Finding> {
    match (token.scope(), required) {
        (None, []) => None,
        (Some(scope), []) => Some(Finding::ok("scopes", format!("{scope}; none is required"))),
        (Some(scope), _) => Some(Finding::ok("scopes", format!("{scope}; all that are required"))),
        (None, required) => Some(Finding::ok(
            "scopes",
            format!(
                "the token's answer speaks of none; {} cannot be checked before the first reset",
                required.join(", ")
            ),
        )),
    }
}

/// What its answer to a look at `Users` means.
fn answered(seen: &Seen, with_token: bool, org: &Org) -> Finding {
    let said = seen.said.as_ref().map_or_else(String::new, |said| format!(": {said}"));
    let says = format!("{} answers {}{said}", org.scim_url, seen.status);
    match seen.status {
        200..=299 => Finding::ok("org", format!("{says}; the right to set passwords shows itself at the first reset")),
        // Nothing else is to be expected without a token.
        401 | 403 if !with_token => Finding::ok("org", format!("{says}, since there is no token")),
        401 => Finding::fail(
            "org",
            says,
            "it refuses a fresh token: are token_url and scim_url of the same org and region?",
        ),
        403 => Finding::warn(
            "org",
            says,
            "this client may not look users up; a reset by userId needs directory:user:setPassword alone, one by userName needs to look",
        ),
        404 => Finding::fail(
            "org",
            says,
            "there is no SCIM: scim_url must be such as https://api.mypurecloud.com/api/v2/scim/v2",
        ),
        429 => Finding::warn(
            "org",
            says,
            "others use the org's quota up just now; a worker adapts its rate to what is left",
        ),
        408 | 500..=599 => {
            Finding::fail("org", says, "the org fails: see its status page; a worker waits and tries again by itself")
        }
        0..=199 | 300..=407 | 409..=428 | 430..=499 | 600.. => {
            Finding::warn("org", says, "it is not the answer of a SCIM endpoint: check scim_url, and any proxy between")
        }
    }
}

/// What it admits, beside what is configured.
fn rate(seen: &Seen, configured: u32) -> Option<Finding> {
    let Some(allowed) = seen.allowed else {
        let says = format!("rate_per_minute is {configured}; the org's answer does not say what it admits");
        return (200..=299).contains(&seen.status).then(|| Finding::ok("rate", says));
    };
    let used = seen.count.map_or_else(String::new, |count| format!(", {count} of them used in this minute"));
    let says = format!("the org admits {allowed} calls a minute{used}; rate_per_minute is {configured}");
    Some(if allowed < configured {
        Finding::warn(
            "rate",
            says,
            format!("set rate_per_minute to {allowed} or less: what is over it is refused and done again"),
        )
    } else {
        Finding::ok("rate", says)
    })
}

/// How far the two clocks are apart.
fn clock(ahead: Option<SignedDuration>) -> Finding {
    let Some(ahead) = ahead else {
        return Finding::ok("clock", "the org's answer has no date to compare with");
    };
    let seconds = ahead.abs().as_secs_f64();
    if ahead.abs() < SKEW {
        return Finding::ok("clock", "within a few seconds of the org's");
    }
    let (which, cure) = (
        if ahead.is_positive() { "behind" } else { "ahead of" },
        "set this machine's clock (NTP): not-before, not-after and which of two resets is newer go by it",
    );
    let says = format!("this machine's clock is {seconds:.0} s {which} the org's");
    if ahead.abs() < FAR_OFF { Finding::warn("clock", says, cure) } else { Finding::fail("clock", says, cure) }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn org() -> Org {
        let text = "[orgs.main]\nregion = \"mypurecloud.de\"\nclient_id = \"i\"\nclient_secret = \"s\"\n";
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = Config::load(&[file.path().to_owned()], crate::config::Environment::default()).unwrap();
        config.org("main").unwrap()
    }

    fn seen(status: u16) -> Seen {
        Seen { status, said: None, allowed: None, count: None, ahead: None }
    }

    /// Every status there can be, in runs of the same meaning.
    #[test]
    fn every_answer_has_its_meaning() {
        let org = org();
        let level = |status: u16| answered(&seen(status), true, &org).level;
        let mut table = String::new();
        let mut start = 100;
        for status in 100..=599_u16 {
            if status == 599 || level(status) != level(status + 1) {
                table += &format!("{start}..={status}: {:?}\n", level(status));
                start = status + 1;
            }
        }
        insta::assert_snapshot!(table, @r"
        100..=199: Warn
        200..=299: Ok
        300..=400: Warn
        401..=401: Fail
        402..=403: Warn
        404..=404: Fail
        405..=407: Warn
        408..=408: Fail
        409..=499: Warn
        500..=599: Fail
        ");
        assert_eq!(answered(&seen(401), false, &org).level, Level::Ok, "without a token");
    }

    #[test]
    fn a_rate_over_what_the_org_admits_is_a_warning_that_says_the_number() {
        let admits = |allowed| Seen { allowed: Some(allowed), count: Some(7), ..seen(200) };
        let finding = rate(&admits(180), 300).unwrap();
        assert_eq!(finding.level, Level::Warn);
        assert!(
            finding.says.contains("180 calls a minute, 7 of them used") && finding.says.contains("300"),
            "{finding:?}"
        );
        assert_eq!(rate(&admits(300), 300).unwrap().level, Level::Ok);
        assert_eq!(rate(&seen(200), 300).unwrap().level, Level::Ok);
        assert_eq!(rate(&seen(500), 300), None);
    }

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        for (seconds, expected, word) in [
            (0, Level::Ok, "within"),
            (-9, Level::Ok, "within"),
            (11, Level::Warn, "11 s behind"),
            (-299, Level::Warn, "299 s ahead of"),
            (300, Level::Fail, "300 s behind"),
            (-4000, Level::Fail, "4000 s ahead of"),
        ] {
            let finding = clock(Some(SignedDuration::from_secs(seconds)));
            assert_eq!(finding.level, expected, "{seconds}");
            assert!(finding.says.contains(word), "{finding:?}");
        }
        assert_eq!(clock(None).level, Level::Ok);
    }
}
