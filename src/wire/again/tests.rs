use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::types::ShortString;
use proptest::prelude::*;

use super::*;

const UNTIL: &str = "2027-01-15T08:00:00Z";

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn with(headers: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> BasicProperties {
    let headers: BTreeMap<ShortString, AMQPValue> =
        headers.into_iter().map(|(name, value)| (name.into(), value)).collect();
    BasicProperties::default().with_headers(headers.into())
}

fn names(properties: &BasicProperties) -> Vec<&str> {
    properties.headers().iter().flat_map(|table| table.inner().keys()).map(|name| name.as_str()).collect()
}

/// What the new header alone is read as.
fn read(header: &str) -> RetryHeaders {
    retry_headers(&with([(retry::NAME, text(header))]))
}

/// All that can be carried.
fn all() -> RetryHeaders {
    RetryHeaders {
        tried: 3,
        probes: 1,
        until: UNTIL.parse().ok(),
        resume_token: Some("t".into()),
        deliveries: 4,
        too_soon: 2,
        may_be_set: true,
    }
}

/// As release 0.1 wrote it.
fn of_0_1() -> [(&'static str, AMQPValue); 6] {
    [
        ("resetd-tried", AMQPValue::LongLongInt(3)),
        ("resetd-probes", AMQPValue::LongLongInt(1)),
        ("resetd-until", text(UNTIL)),
        ("resetd-trip", text("t")),
        ("resetd-deliveries", AMQPValue::LongLongInt(4)),
        ("resetd-too-soon", AMQPValue::LongLongInt(2)),
    ]
}

#[test]
fn what_a_job_carries_is_read_as_it_was_written_and_replaces_what_it_carried_before() {
    let marks = ["x-death", "x-delivery-count", "x-first-death-queue", "x-last-death-reason", "CC"];
    let came = with(marks.map(|name| (name, AMQPValue::LongLongInt(7))).into_iter().chain([("batch", text("b"))]))
        .with_message_id("j".into())
        .with_expiration("1000".into());
    let again = properties(&came, &all());
    assert_eq!(retry_headers(&again), all());
    assert_eq!((again.expiration(), again.message_id().clone()), (&None, Some("j".into())));
    let expected = [
        "batch",
        "resetd-deliveries",
        "resetd-password-set",
        "resetd-probes",
        "resetd-retry",
        "resetd-too-soon",
        "resetd-tried",
        "resetd-trip",
        "resetd-until",
    ];
    assert_eq!(names(&again), expected);
    let second = RetryHeaders { tried: 4, ..RetryHeaders::default() };
    let again = properties(&again, &second);
    assert_eq!(retry_headers(&again), second);
    assert_eq!(names(&again), ["batch", "resetd-retry", "resetd-tried"]);
}

#[test]
fn it_is_one_header_with_a_version_in_which_what_is_nothing_is_left_out() {
    let written = |carried: &RetryHeaders| {
        let properties = properties(&BasicProperties::default(), carried);
        let header = &properties.headers().as_ref().unwrap().inner()["resetd-retry"];
        properties::text(header).unwrap().to_owned()
    };
    assert_eq!(written(&RetryHeaders::default()), r#"{"v":1}"#);
    assert_eq!(
        written(&all()),
        r#"{"v":1,"tried":3,"probes":1,"until":"2027-01-15T08:00:00Z","resumeToken":"t","deliveries":4,"tooSoon":2}"#
    );
    assert_eq!(read(&written(&all())), RetryHeaders { may_be_set: false, ..all() });
}

#[test]
fn what_release_0_1_wrote_is_read() {
    let expected = RetryHeaders { may_be_set: false, ..all() };
    assert_eq!(retry_headers(&with(of_0_1())), expected);
    let between = of_0_1()
        .map(|(name, value)| if name == "resetd-trip" { ("resetd-resume-token", value) } else { (name, value) });
    assert_eq!(retry_headers(&with(between)), expected);
}

/// It passes the header that it does not know on as it came.
#[test]
fn what_a_worker_of_0_1_did_in_between_is_not_forgotten() {
    let mut headers = properties(&BasicProperties::default(), &all()).headers().clone().unwrap();
    headers.insert("resetd-tried".into(), AMQPValue::LongLongInt(5));
    headers.insert("resetd-trip".into(), text("its own"));
    let read = retry_headers(&BasicProperties::default().with_headers(headers));
    assert_eq!(read, RetryHeaders { tried: 5, resume_token: Some("its own".into()), ..all() });
}

#[test]
fn of_a_later_version_that_is_read_which_this_one_knows_of() {
    let expected = RetryHeaders { tried: 3, ..RetryHeaders::default() };
    assert_eq!(read(r#"{"v":2,"tried":3,"patience":{"left":1}}"#), expected);
    assert_eq!(read(r#"{"v":4000000000,"tried":3}"#), expected);
}

#[test]
fn a_job_of_a_producer_carries_nothing_whatever_it_says() {
    assert_eq!(retry_headers(&BasicProperties::default()), RetryHeaders::default());
    let old = [
        ("resetd-tried", AMQPValue::LongLongInt(-1)),
        ("resetd-until", text("tomorrow")),
        ("resetd-trip", AMQPValue::Boolean(true)),
        ("resetd-resume-token", AMQPValue::Boolean(true)),
        (PASSWORD_SET, text("perhaps")),
        ("resetd-retry", AMQPValue::LongLongInt(1)),
    ];
    assert_eq!(retry_headers(&with(old)), RetryHeaders::default());
    for bad in [
        "",
        "3",
        "[1]",
        "null",
        "{}",
        r#"{"tried":3}"#,
        r#"{"v":0,"tried":3}"#,
        r#"{"v":-1,"tried":3}"#,
        r#"{"v":"1","tried":3}"#,
        r#"{"v":1,"tried":3"#,
        r#"{"v":1,"tried":3}}"#,
        r#"{"v":1,"tried":-1,"probes":1}"#,
        r#"{"v":1,"tried":4294967296}"#,
        r#"{"v":1,"tried":null,"probes":1}"#,
        r#"{"v":1,"tried":1,"tried":2}"#,
        r#"{"v":1,"tried":3,"until":"tomorrow"}"#,
        r#"{"v":1,"tried":3,"resumeToken":true}"#,
        r#"{"v":2,"tried":{"calls":3}}"#,
        &format!(r#"{{"v":1,"tried":3,"more":{}"#, "[".repeat(100_000)),
    ] {
        assert_eq!(read(bad), RetryHeaders::default(), "{}", &bad[..bad.len().min(60)]);
        let both = with(of_0_1().into_iter().chain([(retry::NAME, text(bad))]));
        assert_eq!(retry_headers(&both), RetryHeaders { may_be_set: false, ..all() }, "{}", &bad[..bad.len().min(60)]);
    }
    // Whether a password may be set is said by its own header alone.
    assert!(!read(r#"{"v":1,"mayBeSet":true,"passwordSet":"yes"}"#).may_be_set);
}

fn carried() -> impl Strategy<Value = RetryHeaders> {
    let moment = (-62_000_000_000_000_i64..253_000_000_000_000).prop_map(|at| Timestamp::from_millisecond(at).unwrap());
    let counts = (any::<u32>(), any::<u32>(), 0..=i64::MAX as u64, any::<u32>());
    (counts, proptest::option::of(moment), proptest::option::of(any::<String>()), any::<bool>()).prop_map(
        |((tried, probes, deliveries, too_soon), until, resume_token, may_be_set)| RetryHeaders {
            tried,
            probes,
            until,
            resume_token,
            deliveries,
            too_soon,
            may_be_set,
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_carried_comes_back_by_the_one_header_and_by_those_of_0_1(carried in carried()) {
        let again = properties(&BasicProperties::default(), &carried);
        prop_assert_eq!(&retry_headers(&again), &carried);
        let headers = again.headers().clone().unwrap();
        let without = |is_left_out: fn(&str) -> bool| {
            let mut left = headers.inner().clone();
            left.retain(|name, _| !is_left_out(name.as_str()));
            retry_headers(&BasicProperties::default().with_headers(left.into()))
        };
        prop_assert_eq!(&without(|name| release_0_1::NAMES.contains(&name)), &carried);
        prop_assert_eq!(&without(|name| name == retry::NAME), &carried);
    }

    #[test]
    fn whatever_the_header_holds_no_job_fails_for_it(header in "\\PC*", body in r#"\{"v":[0-9]{1,2}(,"(tried|until|resumeToken|x)":("?[a-z0-9-]*"?|\[\]|\{\})){0,3}\}"#) {
        for header in [header, body] {
            let carried = read(&header);
            prop_assert_eq!(retry_headers(&properties(&BasicProperties::default(), &carried)).tried, carried.tried);
        }
    }
}
