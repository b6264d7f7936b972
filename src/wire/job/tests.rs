//! Every rule of a job, and any bytes at all.

use super::*;
use proptest::prelude::*;

fn rules() -> Rules {
    let allowed = AllowedAttributes::new(vec!["genesys:*".into(), "title".into()]);
    Rules { allowed, ..Rules::default() }
}

fn reset(body: &str) -> Reset {
    match parse(body.as_bytes(), &rules()) {
        Ok(Intent::Reset(reset)) => reset,
        other => panic!("{body}: {other:?}"),
    }
}

fn refused(body: &str, reason: Reason, part: &str) {
    let invalid = parse(body.as_bytes(), &rules()).expect_err(body);
    assert_eq!(invalid.reason, reason, "{body}: {invalid}");
    assert!(invalid.detail.contains(part), "{body}: {invalid}");
    assert!(!invalid.detail.contains("hunter2"), "{body}: {invalid}");
}

#[test]
fn a_whole_job_is_read() {
    let job = reset(
        r#"{"userId":"u-1","password":true,"email":"a@example.com","attributes":{"title":"Agent","genesys:routingLanguages":[{"value":"en"}]}}"#,
    );
    assert_eq!(job.who, Who::Id(UserId::parse("u-1").unwrap()));
    assert_eq!(job.recipient.as_str(), "a@example.com");
    let names: Vec<_> = job.attributes.iter().map(|a| (a.name.as_str(), a.json.as_str())).collect();
    assert_eq!(names, [("title", "\"Agent\""), ("genesys:routingLanguages", r#"[{"value":"en"}]"#)]);
}

#[test]
fn intent_is_any_value_but_absent_false_null_and_empty() {
    for none in [
        "{}",
        r#"{"password":false}"#,
        r#"{"password":null}"#,
        r#"{"password":""}"#,
        r#"{"userId":7,"email":[],"attributes":3}"#,
    ] {
        assert_eq!(parse(none.as_bytes(), &rules()), Ok(Intent::PassThrough), "{none}");
    }
    for some in ["true", "0", "1", "\"hunter2\"", "[]", "{}", "\" \"", "0.0"] {
        reset(&format!(r#"{{"userId":"u","email":"a@b","password":{some}}}"#));
    }
}

#[test]
fn the_first_of_emails_stands_in_for_email() {
    assert_eq!(
        reset(r#"{"userId":"u","password":1,"emails":[{"value":"x@y","type":"work"},{"value":"z@y"}]}"#)
            .recipient
            .as_str(),
        "x@y"
    );
    assert_eq!(
        reset(r#"{"userId":"u","password":1,"email":null,"emails":[{"value":"x@y"}]}"#).recipient.as_str(),
        "x@y"
    );
    assert_eq!(reset(r#"{"userId":"u","password":1,"email":"","emails":[{"value":"x@y"}]}"#).recipient.as_str(), "x@y");
    assert_eq!(reset(r#"{"userId":"u","password":1,"email":"a@b","emails":7}"#).recipient.as_str(), "a@b");
}

#[test]
fn a_fallback_stands_in_for_nobody_but_not_for_a_bad_address() {
    let rules = Rules { fallback: Recipient::parse("f", "desk@example.com").ok(), ..rules() };
    let Ok(Intent::Reset(job)) = parse(br#"{"userId":"u","password":1,"emails":[]}"#, &rules) else { panic!() };
    assert_eq!(job.recipient.as_str(), "desk@example.com");
    assert_eq!(
        parse(br#"{"userId":"u","password":1,"email":"nobody"}"#, &rules).unwrap_err().reason,
        Reason::InvalidJob
    );
}

#[test]
fn names_that_mean_something_to_the_library_are_refused_at_any_depth() {
    let rules =
        Rules { allowed: AllowedAttributes::new(vec!["*".into()]), fallback: None, domains: AllowedDomains::default() };
    for attributes in [
        r#"{"$serde_json::private::Number":"1"}"#,
        r#"{"title":{"$serde_json::private::RawValue":"{"}}"#,
        r#"{"title":[{"a":{"\u0024serde_json::private::Number":"1"}}]}"#,
    ] {
        let body = format!(r#"{{"userId":"u","password":1,"email":"a@b","attributes":{attributes}}}"#);
        let invalid = parse(body.as_bytes(), &rules).expect_err(&body);
        assert!(invalid.detail.contains("has the key \"$serde_json::private::"), "{invalid}");
    }
    let text = r#"{"userId":"u","password":1,"email":"a@b","attributes":{"title":"$serde_json::private::Number"}}"#;
    assert!(parse(text.as_bytes(), &rules).is_ok(), "a value may be that text");
}

#[test]
fn each_rule_refuses_with_its_field() {
    use Reason::{AttributeNotAllowed, InvalidJob, NoAddress};
    refused("", InvalidJob, "ends too early");
    refused("hunter2", InvalidJob, "not JSON");
    refused("\"hunter2\"", InvalidJob, "not an object");
    refused("[1]", InvalidJob, "not an object");
    refused(&format!("{{\"attributes\":{}1{}}}", "[".repeat(200), "]".repeat(200)), InvalidJob, "not JSON");
    refused(r#"{"attributes":{"title":"\ud800"}}"#, InvalidJob, "not JSON");
    refused(r#"{"userId":"u"} x"#, InvalidJob, "not JSON");
    refused(r#"{"username":"hunter2"}"#, InvalidJob, "move it under attributes");
    refused(r#"{"password":1,"password":2}"#, InvalidJob, "twice");
    refused(r#"{"password":1}"#, InvalidJob, "userId: it is missing");
    refused(r#"{"password":1,"userId":7}"#, InvalidJob, "userId: it is a number");
    refused(r#"{"password":1,"userId":"a/hunter2"}"#, InvalidJob, "userId: character 2");
    refused(r#"{"password":1,"userId":"u"}"#, NoAddress, "fallback_address");
    refused(r#"{"password":1,"userId":"u","emails":[{}]}"#, NoAddress, "emails[0]");
    refused(r#"{"password":1,"userId":"u","email":"hunter2"}"#, InvalidJob, "email: it has no @");
    refused(r#"{"password":1,"userId":"u","email":{"hunter2":1}}"#, InvalidJob, "email: it is an object");
    refused(r#"{"password":1,"userId":"u","emails":"hunter2"}"#, InvalidJob, "emails: it is text");
    refused(r#"{"password":1,"userId":"u","emails":[{"value":"hunter2"}]}"#, InvalidJob, "emails[0].value");
    refused(
        r#"{"password":1,"userId":"u","email":"a@b","attributes":["hunter2"]}"#,
        InvalidJob,
        "attributes: it is a list",
    );
    refused(r#"{"password":1,"userId":"u","email":"a@b","attributes":{"title":1,"title":2}}"#, InvalidJob, "twice");
    refused(r#"{"password":1,"userId":"u","email":"a@b","attributes":{"":1}}"#, InvalidJob, "empty");
    refused(
        r#"{"password":1,"userId":"u","email":"a@b","attributes":{"manager":"hunter2"}}"#,
        AttributeNotAllowed,
        "manager",
    );
    refused(
        r#"{"password":1,"userId":"u","email":"a@b","attributes":{"password":"hunter2"}}"#,
        AttributeNotAllowed,
        "never an attribute",
    );
}

#[test]
fn a_user_name_stands_in_for_the_id_and_never_beside_it() {
    use Reason::InvalidJob;
    let job = reset(r#"{"userName":"Ann@example.com","userId":null,"password":1,"email":"a@b"}"#);
    assert_eq!(job.who, Who::Name(UserName::parse("Ann@example.com").unwrap()));
    refused(
        r#"{"password":1,"userId":"u","userName":"hunter2","email":"a@b"}"#,
        InvalidJob,
        "userName: it stands beside",
    );
    refused(r#"{"password":1,"userName":["hunter2"],"email":"a@b"}"#, InvalidJob, "userName: it is a list");
    refused(r#"{"password":1,"userName":"hunter2\n","email":"a@b"}"#, InvalidJob, "userName: character 8");
    refused(r#"{"password":1,"userName":"","email":"a@b"}"#, InvalidJob, "userName in its place");
    refused(
        r#"{"password":1,"userName":"u","userName":"u","email":"a@b"}"#,
        InvalidJob,
        "userName: the field stands twice",
    );
}

#[test]
fn size_and_unknown_fields_come_before_the_intent() {
    let large = format!(r#"{{"password":false,"email":"{}"}}"#, "x".repeat(MAX_BODY));
    refused(&large, Reason::InvalidJob, "bytes");
    refused(r#"{"password":false,"more":1}"#, Reason::InvalidJob, "unknown field");
}

proptest! {
    #[test]
    fn any_bytes_are_a_job_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, &rules());
    }

    #[test]
    fn any_fields_are_a_job_or_an_error(user in any::<String>(), email in any::<String>(), name in any::<String>()) {
        let body = serde_json::json!({"userId": user, "password": true, "email": email, "attributes": {name: 1}});
        let _ = parse(body.to_string().as_bytes(), &rules());
    }
}
