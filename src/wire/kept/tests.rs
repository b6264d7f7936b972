//! What is kept of a body, and that what is whole is read as the body was.

use proptest::prelude::*;

use super::*;
use crate::domain::recipient::{AllowedDomains, Recipient};
use crate::wire::job::{Rules, parse};

fn allowed() -> AllowedAttributes {
    AllowedAttributes::new(vec!["genesys:*".into(), "title".into()])
}

#[track_caller]
fn check(body: &str, expected: &str, missing: &[&str], left_out: &[&str]) {
    let kept = of(body.as_bytes(), &allowed());
    assert_eq!(String::from_utf8_lossy(&kept.body), expected, "{body}");
    assert_eq!(kept.missing, missing, "{body}");
    assert_eq!(kept.left_out, left_out, "{body}");
    assert!(!String::from_utf8_lossy(&kept.body).contains("hunter2"), "{body}");
}

#[test]
fn a_good_job_is_kept_as_it_was_written_less_its_password() {
    check(
        r#"{ "userId":"u\u002d1","password":"hunter2","email":"a@b.c","attributes":{"title":{"a":1,"a": 2},"genesys:x":1.50e+3} }"#,
        r#"{"userId":"u\u002d1","password":true,"email":"a@b.c","attributes":{"title":{"a":1,"a": 2},"genesys:x":1.50e+3}}"#,
        &[],
        &[],
    );
    for (password, kept) in [("0", "true"), ("[]", "true"), ("null", "null"), ("false", "false"), (r#""""#, r#""""#)] {
        check(&format!(r#"{{"password":{password}}}"#), &format!(r#"{{"password":{kept}}}"#), &[], &[]);
    }
    check(
        r#"{"userName":"A b","email":null,"attributes":null}"#,
        r#"{"userName":"A b","email":null,"attributes":null}"#,
        &[],
        &[],
    );
    check("{}", "{}", &[], &[]);
}

#[test]
fn of_the_addresses_the_first_is_kept_and_what_nobody_reads_is_not() {
    check(
        r#"{"password":1,"emails":[{"type":"hunter2","value":"\u0061@b"},{"pin":"hunter2"}]}"#,
        r#"{"password":true,"emails":[{"value":"a@b"}]}"#,
        &[],
        &["emails[0].type", "emails[1]"],
    );
    check(r#"{"password":1,"emails":["hunter2"]}"#, r#"{"password":true}"#, &["emails"], &[]);
    check(r#"{"password":1,"emails":[{"value":"a@b","value":"c@d"}]}"#, r#"{"password":true}"#, &["emails"], &[]);
    check(r#"{"password":1,"email":"a@b","emails":"hunter2"}"#, r#"{"password":true,"email":"a@b"}"#, &[], &["emails"]);
    check(
        r#"{"userId":["hunter2"],"attributes":{"x":"hunter2"}}"#,
        r#"{"attributes":{}}"#,
        &[],
        &["userId", "attributes.x"],
    );
}

#[test]
fn one_word_is_kept_though_it_is_not_of_its_form_so_that_it_is_seen_whose_job_it_was() {
    check(
        r#"{"password":1,"userId":"u/2","userName":"","email":"nobody","emails":[{"value":"a@@b"}]}"#,
        r#"{"password":true,"userId":"u/2","userName":"","email":"nobody","emails":[{"value":"a@@b"}]}"#,
        &[],
        &[],
    );
    check(r#"{"password":1,"email":"my-password"}"#, r#"{"password":true}"#, &["email"], &[]);
}

#[test]
fn a_value_that_is_not_of_its_form_is_missing() {
    for (body, name) in [
        (r#"{"password":1,"userId":"pin hunter2"}"#, "userId"),
        (r#"{"password":1,"userId":7}"#, "userId"),
        (r#"{"password":1,"userName":{"pin":"hunter2"}}"#, "userName"),
        (r#"{"password":1,"email":"pin: hunter2"}"#, "email"),
        (r#"{"password":1,"email":"{\"pin\":\"hunter2\"}"}"#, "email"),
        (r#"{"password":1,"emails":[{"value":"a@b hunter2"}]}"#, "emails"),
        (r#"{"password":1,"attributes":["hunter2"]}"#, "attributes"),
        (r#"{"password":1,"pin":"hunter2"}"#, "pin"),
        (r#"{"password":1,"a\nb":"hunter2"}"#, "a\\nb"),
        (r#"{"password":1,"$serde_json::private::RawValue":"{\"userId\":\"b\"}"}"#, "$serde_json::private::RawValue"),
    ] {
        check(body, r#"{"password":true}"#, &[name], &[]);
    }
    for (attribute, name) in [
        (r#""active":"hunter2""#, "attributes.active"),
        (r#""title":{"Pass\u0077d":"hunter2"}"#, "attributes.title"),
        (r#""genesys:clientSecret":"hunter2""#, "attributes.genesys:clientSecret"),
        (r#""title":[{"$serde_json::private::Number":"1"}]"#, "attributes.title"),
        (r#""title":"hunter2","title":"hunter2""#, "attributes.title"),
    ] {
        let body = format!(r#"{{"password":1,"attributes":{{{attribute},"genesys:a":1}}}}"#);
        check(&body, r#"{"password":true,"attributes":{"genesys:a":1}}"#, &[name], &[]);
    }
}

#[test]
fn of_a_field_that_stands_twice_neither_is_kept() {
    check(r#"{"userId":"a","userId":"b","password":1}"#, r#"{"password":true}"#, &["userId"], &[]);
    check(r#"{"userId":"a","user\u0049d":"b","password":1}"#, r#"{"password":true}"#, &["userId"], &[]);
    check(r#"{"userId":"a","password":false,"password":1}"#, r#"{"userId":"a"}"#, &["password"], &[]);
    check(r#"{"x":1,"x":2,"x":3}"#, "{}", &["x"], &[]);
}

#[test]
fn of_what_is_no_object_nothing_is_kept() {
    let large = format!(r#"{{"userId":"a"{}}}"#, " ".repeat(MAX_BODY));
    for body in ["", "hunter2", "\"hunter2\"", "[]", "7", "{", r#"{"userId":"a",}"#, r#"{"a":"\ud800"}"#, &large] {
        check(body, "", &["body"], &[]);
    }
    let just_fits = format!(r#"{{"password":1{}}}"#, " ".repeat(MAX_BODY - 14));
    check(&just_fits, r#"{"password":true}"#, &[], &[]);
    let title = "x".repeat(MAX_BODY - 41);
    let too_long_then = format!(r#"{{"password":1,"attributes":{{"title":"{title}"}}}}"#);
    assert!(too_long_then.len() <= MAX_BODY);
    check(&too_long_then, "", &["body"], &[]);
}

/// Names and values that a job is made of, good ones and odd ones.
fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let names = prop::sample::select(vec![
        "userId",
        "userName",
        "password",
        "email",
        "emails",
        "attributes",
        "pin",
        "user\\u0049d",
    ]);
    let values = prop::sample::select(vec![
        "null",
        "\"\"",
        "true",
        "false",
        "0",
        "\"u\"",
        "\"a@b\"",
        "\"A b\"",
        "[]",
        "{}",
        "[{\"value\":\"c@d\"}]",
        "[{\"value\":\"c@d\",\"value\":\"e@f\"}]",
        "[7]",
        "{\"title\":\"x\"}",
        "{\"title\":1,\"title\":2}",
        "{\"x\":1}",
        "{\"title\":{\"pwd\":1}}",
        "{\"$serde_json::private::RawValue\":\"\\\"u\\\"\"}",
        "{\"title\":{\"$serde_json::private::Number\":\"1\"}}",
    ]);
    prop::collection::vec((names, values), 0..6)
}

proptest! {
    #[test]
    fn what_is_whole_is_read_as_the_body_was(pairs in pairs(), fallback in any::<bool>()) {
        let fields: Vec<String> = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let body = format!("{{{}}}", fields.join(", "));
        let fallback = Recipient::parse("fallback", "f@g").ok().filter(|_| fallback);
        let rules = Rules { allowed: allowed(), fallback, domains: AllowedDomains::default() };
        let kept = of(body.as_bytes(), &rules.allowed);
        let job = parse(body.as_bytes(), &rules);
        if kept.missing.is_empty() {
            prop_assert_eq!(parse(&kept.body, &rules), job, "{}", body);
        } else {
            let speaks = body.contains("pwd");
            prop_assert!(job.is_err() || speaks, "{}: {:?}", body, kept);
        }
        let again = of(&kept.body, &rules.allowed);
        prop_assert_eq!((again.body, again.missing, again.left_out), (kept.body, vec![], vec![]));
    }
}
