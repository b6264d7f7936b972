//! What must hold for any bytes that resetd reads from outside, one function for each fuzz target. `scripts/fuzz` runs the targets;
//! `tests/seeds.rs` runs the same functions over the seeds and every small change of them.
//!
//! None of them may panic, and what is read must be written back equal: a reader that drops or changes something is found, and
//! not only one that crashes.

use std::collections::HashMap;
use std::str;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use resetd::commands::enqueue;
use resetd::domain::attribute::AllowedAttributes;
use resetd::domain::job::{Intent, JobId, Lane, Reset, Who};
use resetd::domain::note::{Content, Note};
use resetd::domain::outcome::{Outcome, OutcomeKind, PasswordSet, Reason};
use resetd::domain::recipient::Recipient;
use resetd::transport::keys::{Bits, Pair};
use resetd::transport::seal::{Keys, Seal};
use resetd::transport::{self, Undelivered};
use resetd::wire::waits::Waits;
use resetd::wire::{
    again, dead_letter as letter_of, job as jobs, kept, letter, notification as notifications, properties as wished,
    recipient,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// What must hold for some bytes; it panics where it does not.
pub type Check = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Check); 8] = [
    ("job", job),
    ("notification", notification),
    ("dead_letter", dead_letter),
    ("retry_after", retry_after),
    ("csv", csv),
    ("smtp_reply", smtp_reply),
    ("jwe_header", jwe_header),
    ("jwe", jwe),
];

/// The longest refusal: it names a field and a rule, and repeats at most a name.
const MAX_REFUSAL: usize = 1024;

fn rules() -> &'static jobs::Rules {
    static RULES: OnceLock<jobs::Rules> = OnceLock::new();
    RULES.get_or_init(|| jobs::Rules { allowed: AllowedAttributes::new(vec!["*".into()]), ..jobs::Rules::default() })
}

/// A body of a job. What is taken for a job is the same job when it is written by somebody else; a refusal is one short line.
pub fn job(body: &[u8]) {
    match jobs::parse(body, rules()) {
        Ok(Intent::PassThrough) => {}
        Ok(Intent::Reset(reset)) => {
            let written = written(&reset);
            // Escapes may be longer than what they stand for.
            if written.len() <= jobs::MAX_BODY {
                assert_eq!(jobs::parse(written.as_bytes(), rules()), Ok(Intent::Reset(reset)), "{written}");
            }
        }
        Err(invalid) => one_line(&invalid.detail),
    }
}

/// The body of a job that asks for this.
fn written(reset: &Reset) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let who = match &reset.who {
        Who::Id(id) => format!("\"userId\":{}", text(id.as_str())),
        Who::Name(name) => format!("\"userName\":{}", text(name.as_str())),
    };
    let pairs =
        reset.attributes.iter().map(|attribute| format!("{}:{}", text(attribute.name.as_str()), attribute.json));
    let attributes = pairs.collect::<Vec<_>>().join(",");
    let (field, recipient) = recipient::written(&reset.recipient);
    format!("{{{who},\"password\":1,{}:{},\"attributes\":{{{attributes}}}}}", text(field), text(recipient))
}

fn one_line(refusal: &str) {
    assert!(!refusal.is_empty() && refusal.len() <= MAX_REFUSAL, "{} bytes: {refusal}", refusal.len());
    assert!(!refusal.chars().any(char::is_control), "{refusal:?}");
}

/// A message of the email queue. What is taken for a notification is the same one when it is written by somebody else.
pub fn notification(body: &[u8]) {
    let now = Timestamp::UNIX_EPOCH;
    let came = BasicProperties::default();
    match notifications::read(body, &came, now) {
        Ok((note, _)) => {
            let written = Value::Object(said(&note)).to_string();
            // Whose issuedAt lay ahead: it counts as issued now, and so says what is written.
            let (again, warning) = notifications::read(written.as_bytes(), &came, now).expect("it was read before");
            assert_eq!(warning, None);
            assert_eq!(said(&again), said(&note));
            if let Content::Open(_) = note.content {
                sealed_words(&note);
            }
        }
        Err(refusal) => one_line(&refusal.to_string()),
    }
}

/// The fields of a notification.
fn said(note: &Note) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut say = |name: &str, value: &str| fields.insert(name.into(), value.into());
    say("notificationId", note.id.as_str());
    say("jobId", note.job.as_str());
    say("org", &note.org);
    say("userId", note.user.as_str());
    say("to", note.to.as_str());
    say("subject", &note.subject);
    say("issuedAt", &note.issued_at.to_string());
    match &note.content {
        Content::Open(words) => {
            say("body", &words.body);
            say("temporaryPassword", words.password.expose());
        }
        Content::Sealed(sealed) => drop(say("sealed", sealed)),
    }
    fields
}

/// What is sealed is read for the notification that it was sealed for, and for no other.
fn sealed_words(note: &Note) {
    let mut fields = said(note);
    let secret = Value::Object(fields.clone()).to_string();
    let words = notifications::words(secret.as_bytes(), note).expect("it is of this notification");
    let Content::Open(open) = &note.content else { unreachable!("it is open") };
    assert_eq!((words.password.expose(), &words.body), (open.password.expose(), &open.body));
    for field in ["notificationId", "org", "userId", "to"] {
        let kept = fields.insert(field.into(), "another".into());
        if kept != Some("another".into()) {
            let secret = Value::Object(fields.clone()).to_string();
            assert!(notifications::words(secret.as_bytes(), note).is_err(), "{field}");
        }
        fields.extend(kept.map(|kept| (field.to_owned(), kept)));
    }
}

/// What a worker allows that is set up as the default has it.
fn strict() -> &'static jobs::Rules {
    static RULES: OnceLock<jobs::Rules> = OnceLock::new();
    RULES.get_or_init(|| jobs::Rules {
        allowed: AllowedAttributes::new(vec!["genesys:*".into(), "title".into()]),
        fallback: Recipient::parse("fallback", "a@b").ok(),
        ..jobs::Rules::default()
    })
}

/// How the job ended that is given up.
fn given_up([reason, set, lane, status, attempts]: [usize; 5]) -> Outcome {
    Outcome {
        job: JobId::new("j"),
        org: "main".into(),
        lane: Lane::ALL[lane % Lane::ALL.len()],
        user: None,
        batch: None,
        asked_at: None,
        kind: OutcomeKind::Failed,
        reason: Some(Reason::ALL[reason % Reason::ALL.len()]),
        status: (status > 0).then(|| u16::try_from(100 + status * 2).unwrap_or_default()),
        attempts: u32::try_from(attempts).unwrap_or_default(),
        password_set: PasswordSet::ALL[set % PasswordSet::ALL.len()],
        detail: (status > 2).then(|| "x".repeat(status * 4)),
        finished_at: Timestamp::UNIX_EPOCH,
    }
}

/// The properties that a job came with, some of which cannot be read.
fn came([ids, id, headers]: [usize; 3], body: &[u8]) -> BasicProperties {
    let text = |from: usize| String::from_utf8_lossy(&body[..body.len().min(from)]).into_owned();
    let mut table = FieldTable::default();
    if headers & 1 > 0 {
        table.insert("batch".into(), AMQPValue::LongString(text(headers).into()));
    }
    if headers & 2 > 0 {
        table.insert("x-death".into(), AMQPValue::LongString(text(id).into()));
    }
    if headers & 4 > 0 {
        table.insert("not-after".into(), AMQPValue::LongString(text(id).into()));
        table.insert(text(id.min(60)).as_str().into(), AMQPValue::LongString(text(headers).into()));
    }
    if headers & 16 > 0 {
        table.insert("resetd-retry".into(), AMQPValue::LongString(text(headers).into()));
    }
    let came = BasicProperties::default().with_headers(table);
    if ids & 1 > 0 { came.with_message_id(ShortString::from(text(id.min(80)).as_str())) } else { came }
}

/// A job that is given up. Its letter says why and what it is called, keeps nothing but what is permitted, and keeps the same of
/// itself. Where it can be replayed, its replay is read as the job was, whatever that came to; and where it cannot, it has lost
/// something.
pub fn dead_letter(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<8>() else { return };
    let [reason, set, lane, status, attempts, ids, id, headers] = head.map(usize::from);
    let outcome = given_up([reason, set, lane, status, attempts]);
    let came = came([ids, id, headers], body);
    let carried = |from: &BasicProperties| again::retry_headers(&again::properties(from, &again::retry_headers(from)));
    assert_eq!(carried(&came), carried(&again::properties(&came, &carried(&came))));
    let rules = if headers & 8 > 0 { strict() } else { rules() };
    let (kept, properties) = letter_of::message(body, &came, &outcome, &rules.allowed);
    let read = letter::DeadLetter::read(&kept, &properties);
    assert_eq!(read.job, wished::job_id(body, &came));
    assert_eq!(Some(read.reason.as_str()), outcome.reason.map(Reason::as_str));
    assert_eq!((read.status, read.attempts), (outcome.status, Some(outcome.attempts)));
    assert_eq!(read.password_set.as_deref(), Some(outcome.password_set.as_str()));
    assert_eq!((read.lane.clone(), read.dead_at), (Ok(outcome.lane), Some(outcome.finished_at)));
    let detail = outcome.detail.as_deref().map(|detail| &detail[..detail.len().min(512)]);
    assert_eq!(read.detail.as_deref(), detail);
    is_permitted(&kept, &properties);
    if !kept.is_empty() {
        let again = kept::of(&kept, &rules.allowed);
        assert_eq!((again.body, again.missing, again.left_out), (kept.clone(), vec![], vec![]));
    }

    let again = letter::replayed(&kept, &properties);
    assert!(again.message_id().as_ref().is_some_and(|id| !id.as_str().is_empty()));
    let marks = again.headers().clone().unwrap_or_default();
    let mut ours = marks.inner().keys().filter(|name| name.as_str().starts_with("resetd-"));
    let may_be_set = outcome.password_set != PasswordSet::No;
    assert_eq!(ours.next().map(ShortString::as_str), may_be_set.then_some("resetd-password-set"));
    assert!(ours.next().is_none() && marks.inner().keys().all(|name| name.as_str() != "x-death"));
    let job = jobs::parse(body, rules);
    if read.hindrance().is_none() {
        assert_eq!(jobs::parse(&kept, rules), job);
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(wished::wishes(&again, now), wished::wishes(&came, now));
    } else {
        assert!(!read.missing.is_empty());
        // Of a good job nothing is lost but an attribute that speaks of a secret, a wish that cannot be read, and one byte too many.
        let may_be = |name: &String| name.starts_with("attributes.") || name.starts_with("header ");
        assert!(
            job.is_err() || read.missing.iter().all(may_be) || body.len() > jobs::MAX_BODY - 3,
            "{:?}",
            read.missing
        );
    }
    if let Ok(Intent::Reset(reset)) = job {
        assert_eq!(read.user.as_ref(), reset.who.id());
    }
}

/// A letter has nothing but the fields of a job and the headers that are named in the contract.
fn is_permitted(kept: &[u8], properties: &BasicProperties) {
    let fields: Map<String, Value> = match kept {
        [] => Map::new(),
        kept => serde_json::from_slice(kept).expect("it is an object"),
    };
    for (name, value) in &fields {
        let of_recipient = recipient::FIELDS.iter().find(|field| field.name == name);
        match name.as_str() {
            "userId" | "userName" => assert!(value.is_string() || value.is_null(), "{name}"),
            "password" => assert!([json!(true), json!(false), json!(null), json!("")].contains(value)),
            "attributes" => assert!(value.is_object() || value.is_null()),
            other => match of_recipient.unwrap_or_else(|| panic!("{other}")).list_of {
                None => assert!(value.is_string() || value.is_null(), "{name}"),
                Some(_) => {
                    assert!(value.is_null() || value == &json!([]) || value == &json!([{"value": value[0]["value"]}]))
                }
            },
        }
    }
    let known = ["batch", "traceparent", "not-before", "not-after"];
    for name in properties.headers().iter().flat_map(|table| table.inner().keys()) {
        let is_ours = name.as_str().starts_with("resetd-") && name.as_str() != "resetd-retry";
        assert!(known.contains(&name.as_str()) || is_ours, "{name}");
    }
}

/// A `Retry-After` header. A wait is a whole number of seconds above 0, at most the longest allowed, and is the same when it is
/// written as seconds and as a date.
pub fn retry_after(value: &[u8]) {
    const CAP: Duration = Duration::from_secs(900);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    let read = |value: HeaderValue| Waits::of(&HeaderMap::from_iter([(RETRY_AFTER, value)]), now, CAP);
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    let waits = read(value);
    assert_eq!(waits.reset, None);
    let Some(wait) = waits.retry_after else {
        assert!(!waits.cut);
        return;
    };
    assert!(wait > Duration::ZERO && wait <= CAP && wait.subsec_nanos() == 0, "{wait:?}");
    for written in [wait.as_secs().to_string(), httpdate::fmt_http_date(now + wait)] {
        let again = HeaderValue::from_str(&written).expect("digits and a date are a header's value");
        assert_eq!(read(again), Waits { cut: false, ..waits }, "{written}");
    }
}

/// A CSV file of jobs. What is taken for jobs is the same jobs when a library writes the file anew; and a file with a bad line names it.
pub fn csv(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if text.trim_start().starts_with('{') {
        return;
    }
    match enqueue::bodies(text, rules()) {
        Ok(bodies) => {
            let jobs: Vec<Value> =
                bodies.iter().map(|body| serde_json::from_str(body).expect("a body is JSON")).collect();
            let again = enqueue::bodies(&sheet(&jobs), rules()).expect("it was read before");
            let again: Vec<Value> =
                again.iter().map(|body| serde_json::from_str(body).expect("a body is JSON")).collect();
            assert_eq!(again, jobs);
        }
        Err(error) => {
            let said = error.to_string();
            let lines = text.split(['\n', '\r']).count();
            let numbers = said.match_indices("line ").filter_map(|(at, word)| {
                let digits: String = said[at + word.len()..].chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<usize>().ok()
            });
            let numbers: Vec<usize> = numbers.collect();
            assert!(numbers.iter().all(|line| (1..=lines).contains(line)), "{lines} lines: {said}");
            assert!(!numbers.is_empty() || said.contains("no jobs") || said.contains("JSON list"), "{said}");
        }
    }
}

/// What is no formula to a spreadsheet has one quote more, which is taken away again.
fn quoted(cell: &str) -> String {
    enqueue::no_formula(cell).into_owned()
}

/// The file that has these jobs.
fn sheet(jobs: &[Value]) -> String {
    let own = |job: &Value, name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let mut columns: Vec<&str> = Vec::new();
    for name in jobs.iter().filter_map(|job| job["attributes"].as_object()).flat_map(Map::keys) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fields: Vec<&str> = ["userId", "userName"].into_iter().chain(recipient::columns()).collect();
    let header = fields.iter().chain(&columns).map(|name| quoted(name));
    writer.write_record(header.collect::<Vec<_>>()).expect("into memory");
    for job in jobs {
        let attribute = |name: &&str| match &job["attributes"][*name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            json @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => json.to_string(),
        };
        let cells = fields.iter().map(|name| own(job, name));
        let cells = cells.chain(columns.iter().map(attribute)).map(|cell| quoted(&cell));
        writer.write_record(cells.collect::<Vec<_>>()).expect("into memory");
    }
    String::from_utf8(writer.into_inner().expect("into memory")).expect("it was text")
}

/// What a mail server says to a recipient. A reply means the same when it is written as one line of its code and text; 2yz is the only
/// one that takes the recipient, and only 5yz gives anything up.
pub fn smtp_reply(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Some(said) = transport::at_the_recipient(text) else { return };
    let (code, detail) = match &said {
        Ok(code) => {
            assert!((200..=299).contains(code), "{code}");
            return;
        }
        Err(Undelivered::Again { detail, status, after }) => {
            assert_eq!(*after, None);
            (status.expect("there was a reply"), detail)
        }
        Err(Undelivered::Later { detail, status }) => {
            assert!((400..=499).contains(status), "{said:?}");
            (*status, detail)
        }
        Err(Undelivered::Refused { detail, status }) => {
            assert!((500..=599).contains(status), "{said:?}");
            (*status, detail)
        }
        Err(Undelivered::Never { detail, status } | Undelivered::Stop { detail, status }) => {
            let status = status.expect("there was a reply");
            assert!((500..=599).contains(&status), "{said:?}");
            (status, detail)
        }
    };
    let words = detail.split_once(": ").expect("who said it, and what").1;
    assert_eq!(transport::at_the_recipient(&format!("{code} {words}\r\n")), Some(said.clone()), "{said:?}");
}

const SECRET: &[u8] = br#"{"temporaryPassword":"s3cr3t-pw","body":"It is s3cr3t-pw"}"#;

/// A key, what opens it, and [`SECRET`] sealed to it.
fn sealed() -> &'static (Keys, String, String) {
    static SEALED: OnceLock<(Keys, String, String)> = OnceLock::new();
    SEALED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for the keys");
        let pair = Pair::generate(Bits::Rsa3072).expect("a key pair");
        let file = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("a file for the key");
            vec![path]
        };
        let seal = Seal::load(&file("public.pem", &pair.public)).expect("a key").expect("one file");
        let keys = Keys::load(&file("private.pem", &pair.private)).expect("a key");
        let text = seal.close(SECRET).expect("it is sealed");
        (keys, pair.kid, text)
    })
}

/// The header of a compact JWE: the part that is read before anything is decrypted. In the bytes, `KID` stands for the key that is
/// here. Only RSA-OAEP-256 and A256GCM for that key are taken, whatever else the header says.
pub fn jwe_header(bytes: &[u8]) {
    let (keys, kid, _) = sealed();
    let Ok(header) = str::from_utf8(bytes) else { return };
    let header = header.replace("KID", kid);
    let found = keys.find(&format!("{}.x.x.x.x", BASE64_URL_SAFE_NO_PAD.encode(&header)));
    match found {
        Ok(()) => {
            // What nobody reads may be any JSON: an escape that stands for no character too (RFC 8259, section 8.2).
            let fields: Result<HashMap<String, &RawValue>, _> = serde_json::from_str(&header);
            let fields = fields.unwrap_or_else(|error| panic!("it is no object: {error}: {header}"));
            let said = ["alg", "enc", "kid"].map(|name| serde_json::from_str::<String>(fields[name].get()).ok());
            assert_eq!(said, ["RSA-OAEP-256", "A256GCM", kid].map(|value| Some(value.to_owned())));
            let again = json!({"alg": said[0], "enc": said[1], "kid": said[2]}).to_string();
            assert_eq!(keys.find(&format!("{}.x.x.x.x", BASE64_URL_SAFE_NO_PAD.encode(&again))), Ok(()));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}

/// A compact JWE that was changed. It opens to what was sealed if it is what was sealed, and else not at all. The bytes are pairs: how
/// far to go on in the text, and what to put there.
pub fn jwe(bytes: &[u8]) {
    let (keys, _, text) = sealed();
    let mut changed = text.clone().into_bytes();
    let mut at = 0;
    for pair in bytes.chunks_exact(2) {
        at = (at + usize::from(pair[0]) + 1) % changed.len();
        changed[at] = pair[1] & 0x7f;
    }
    let changed = String::from_utf8(changed).expect("ASCII");
    match keys.open(&changed) {
        Ok(opened) => {
            assert_eq!(&changed, text);
            assert_eq!(opened.as_slice(), SECRET);
        }
        Err(error) => {
            assert_ne!(&changed, text);
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        assert!(keys.open(text).is_err(), "nobody else has sealed anything");
    }
}
