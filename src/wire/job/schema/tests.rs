//! The schema and the parser say the same of a body.

use super::super::{Rules, parse};
use super::*;
use crate::domain::attribute::AllowedAttributes;
use crate::domain::recipient::Recipient;

fn rules() -> Rules {
    Rules {
        allowed: AllowedAttributes::new(vec!["*".into()]),
        fallback: Some(Recipient::parse("", "nobody@example.com").unwrap()),
        ..Rules::default()
    }
}

/// Compares both on every body that is made of one value for each field; an empty one leaves the field out. How many were taken, and refused.
fn agree(fields: &[(&str, &[&str])]) -> (usize, usize) {
    let validator = jsonschema::draft202012::new(schema().as_value()).unwrap();
    let (rules, mut bodies, mut counts) = (rules(), vec![Vec::new()], (0, 0));
    for (name, values) in fields {
        let longer = |body: &Vec<String>, value: &str| {
            let field = (!value.is_empty()).then(|| format!("{name:?}:{value}"));
            body.iter().cloned().chain(field).collect()
        };
        bodies = bodies.iter().flat_map(|body| values.iter().map(move |value| longer(body, value))).collect();
    }
    for body in bodies.iter().map(|fields| format!("{{{}}}", fields.join(","))) {
        let taken = parse(body.as_bytes(), &rules);
        let valid = validator.is_valid(&serde_json::from_str(&body).unwrap());
        assert_eq!(taken.is_ok(), valid, "{body}: the parser says {taken:?}, the schema {valid}");
        *(if valid { &mut counts.0 } else { &mut counts.1 }) += 1;
    }
    counts
}

#[test]
fn what_the_parser_takes_is_what_the_schema_allows() {
    let counts = agree(&[
        (PASSWORD, &["", "true", "null"]),
        (USER_ID, &["", "\"u-1\"", "null", "7", "\"..\""]),
        (USER_NAME, &["", "\"agent@example.com\"", "\"\"", "[\"a\"]"]),
        ("email", &["", "\"a@b\"", "null", "\"a@\""]),
        ("emails", &["", "null", "[]", "7", r#"[{"value":"a@b"},7]"#, r#"[{"value":"a"}]"#, "[7]"]),
        (ATTRIBUTES, &["", "[]", r#"{"title":"Agent"}"#]),
    ]);
    assert!(counts.0 > 1000 && counts.1 > 1000, "taken and refused: {counts:?}");
    let intents: &[&str] = &["", "true", "false", "null", "\"\"", "0", "\" \"", "[]", "{}"];
    let counts = agree(&[(PASSWORD, intents), (USER_ID, &["\"u\"", "\"\""]), ("other", &["", "1"])]);
    assert_eq!(counts, (13, 23), "any value but four is an intent, and no field is unknown");
}

fn each(field: &str, values: &[String], others: &[(&str, &[&str])]) {
    let values: Vec<String> = values.iter().map(|value| json!(value).to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut fields = vec![(PASSWORD, &["true"][..])];
    fields.extend(others);
    fields.push((field, &values));
    let (taken, refused) = agree(&fields);
    assert!(taken > 0 && refused > 0, "{field}: {taken} taken and {refused} refused");
}

/// Addresses of every odd kind, good and bad ones.
const ADDRESSES: [&str; 39] = [
    "agent@example.com",
    "a.b+c@sub.example.com",
    "o'neil@example.com",
    "ü@exämple.com",
    "a@b-c",
    "a@b.-c",
    "a@b-.c",
    "agent",
    "@example.com",
    "agent@",
    "a@b@c",
    "a b@c",
    "a@b\r\nBcc: x@y",
    "<a@b>",
    "a@b,c@d",
    "a@.b",
    "a@b.",
    "a@-b",
    "a@b-",
    "a@b..c",
    "a@b\n",
    "a[b@c",
    "a\\b@c",
    "a\"b@c",
    "a\u{a0}b@c",
    "a:b@c",
    "a..b@example.com",
    ".a@example.com",
    "a.@example.com",
    "“a”@example.com",
    "o’neil@example.com",
    "\u{200b}agent@example.com",
    "\u{feff}agent@example.com",
    "a–b@example.com",
    "!#$%&'*+-/=?^_`{|}~@example.com",
    "a@exa!mple.com",
    "a@exa~mple.com",
    "a@under_score.example",
    "a@_b",
];

#[test]
fn the_limits_of_each_text_are_the_parsers() {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let user: &[(&str, &[&str])] = &[(USER_ID, &["\"u\""])];
    let mut ids = texts(&["a.b_c~d-E9", ".", "..", "...", "a/b", "a b", "a%2fb", "ü", "a\n", "\u{1f}"]);
    ids.extend([1, 128, 129].map(|n| "x".repeat(n)));
    each(USER_ID, &ids, &[]);
    let mut names = texts(&["Zoë \"Q\" O'Neil\\x", "a\nb", "\u{7f}", "\u{85}", "a\n", " "]);
    names.extend([256, 257].map(|n| "ü".repeat(n)));
    each(USER_NAME, &names, &[]);
    let mut addresses = texts(&ADDRESSES);
    addresses.extend([64, 65, 252].map(|n| format!("{}@b", "x".repeat(n))));
    addresses.extend([63, 64].map(|n| format!("a@{}.b", "y".repeat(n))));
    let labels = ["y".repeat(63), "y".repeat(63), "y".repeat(61)].join(".");
    addresses.extend([64, 65].map(|n| format!("{}@{labels}", "x".repeat(n))));
    each("email", &addresses, user);
    let attributes =
        ["title", "genesys:", "genesys:routingSkills", "", "a b", "tïtle", "a\u{7}", "Password", "x.pAssword"];
    let mut attributes = texts(&attributes);
    attributes.extend(texts(&[
        "urn:ietf:params:scim:schemas:core:2.0:User:password",
        "passwords",
        "my-password",
        "a\n",
    ]));
    attributes.extend([256, 257].map(|n| "x".repeat(n)));
    let objects: Vec<String> = attributes.iter().map(|name| json!({name: 1}).to_string()).collect();
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    let (taken, refused) = agree(&[(PASSWORD, &["true"]), (USER_ID, &["\"u\""]), (ATTRIBUTES, &objects)]);
    assert!(taken == 5 && refused == 10, "attributes: {taken} taken and {refused} refused");
}
