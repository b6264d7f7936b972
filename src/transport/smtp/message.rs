//! A mail as it stands on the wire: RFC 5322 and MIME, written by lettre, from fields none of which can add a header.

use std::time::SystemTime;

use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use zeroize::Zeroizing;

use super::super::delivery::Mail;

/// The longest subject, in bytes: more is no subject, and a header's line has 998 at most (RFC 5322, section 2.1.1).
const MAX_SUBJECT: usize = 900;

/// A mail that no mail server can be asked to take. In words without its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsendable(&'static str);

/// What is sent: the envelope and the bytes.
pub(super) struct SmtpMessage {
    pub(super) to: Address,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl SmtpMessage {
    /// Whether the address needs SMTPUTF8 (RFC 6531).
    pub(super) fn needs_utf8(&self) -> bool {
        let to: &str = self.to.as_ref();
        !to.is_ascii()
    }
}

/// The bytes of a mail, as a mail server gets them.
///
/// # Errors
/// Where it cannot be sent at all.
pub(in super::super) fn bytes(mail: &Mail, from: &Mailbox, at: SystemTime) -> Result<Zeroizing<Vec<u8>>, Unsendable> {
    SmtpMessage::of(mail, from, at).map(|letter| letter.bytes)
}

impl SmtpMessage {
    pub(super) fn of(mail: &Mail, from: &Mailbox, at: SystemTime) -> Result<Self, Unsendable> {
        if mail.subject.chars().any(char::is_control) {
            return Err(Unsendable("the subject holds a control character; it must be one line of text"));
        }
        if mail.subject.len() > MAX_SUBJECT {
            return Err(Unsendable("the subject is longer than 900 bytes"));
        }
        let address = mail.to.email().ok_or(Unsendable("its recipient is not reached by mail"))?;
        let to = address.envelope().clone();
        let auto_submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
        let builder = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(mail.subject.clone())
            .date(at)
            .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
            // RFC 3834, section 5: nobody's absence note answers it.
            .raw_header(HeaderValue::new(auto_submitted, "auto-generated".into()));
        let text = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(mail.text.as_str().to_owned());
        let message = match &mail.html {
            None => builder.singlepart(text),
            Some(html) => {
                let html = SinglePart::builder().header(ContentType::TEXT_HTML).body(html.as_str().to_owned());
                builder.multipart(MultiPart::alternative().singlepart(text).singlepart(html))
            }
        };
        let message = message.map_err(|_| Unsendable("no mail can be made of it"))?;
        Ok(Self { to, bytes: Zeroizing::new(message.formatted()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::note::NoteId;
    use crate::domain::password::Password;
    use crate::domain::recipient::Recipient;
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    fn mail(to: &str, subject: &str, text: &str, html: Option<&str>) -> Mail {
        Mail {
            id: NoteId::parse("0f6e7c1a-5b7e").unwrap(),
            to: Recipient::parse("to", to).unwrap(),
            password: Password::known(Zeroizing::new("p".into())),
            subject: subject.into(),
            text: Zeroizing::new(text.into()),
            html: html.map(|html| Zeroizing::new(html.into())),
        }
    }

    fn written(mail: &Mail) -> Result<SmtpMessage, Unsendable> {
        let from: Mailbox = "\"Jürgen Müller, Service\" <noreply@example.com>".parse().unwrap();
        SmtpMessage::of(mail, &from, SystemTime::UNIX_EPOCH)
    }

    /// The names of the headers before the body, and that no line is longer than it may be.
    fn headers(bytes: &[u8]) -> Vec<String> {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])), "{text}");
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let own = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
        own.map(|line| line.split_once(':').unwrap().0.to_owned()).collect()
    }

    const HEADERS: [&str; 7] = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"];

    #[test]
    fn a_mail_is_read_back_as_it_was_meant() {
        let html = "<p>Grüße &amp; <b>x&lt;y</b></p>\n";
        let mail = mail("agent@example.com", "Ihr vorläufiges Passwort ✓", "Grüße,\n.\n= x<y & \"z\"\n", Some(html));
        let letter = written(&mail).unwrap();
        assert!(letter.bytes.is_ascii(), "a server without 8BITMIME takes it");
        let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
        assert_eq!(parsed.subject(), Some(mail.subject.as_str()));
        assert_eq!(parsed.from().unwrap().first().unwrap().name(), Some("Jürgen Müller, Service"));
        assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("agent@example.com"));
        assert_eq!(parsed.message_id(), Some("0f6e7c1a-5b7e@example.com"));
        assert_eq!(parsed.date().unwrap().to_timestamp(), 0);
        assert_eq!(parsed.header("Auto-Submitted").and_then(|value| value.as_text()), Some("auto-generated"));
        assert_eq!(parsed.body_text(0).unwrap().replace("\r\n", "\n"), *mail.text);
        assert_eq!(parsed.body_html(0).unwrap().replace("\r\n", "\n"), html);
        assert!(parsed.is_content_type("multipart", "alternative"));
    }

    #[test]
    fn without_html_it_is_plain_text() {
        let letter = written(&mail("agent@example.com", "s", "plain", None)).unwrap();
        let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
        assert!(parsed.is_content_type("text", "plain") && parsed.parts.len() == 1);
        assert_eq!(parsed.body_text(0).unwrap().trim_end(), "plain");
    }

    #[test]
    fn a_domain_is_written_in_ascii_and_an_address_that_needs_more_says_so() {
        let to =
            |to: &str| written(&mail(to, "s", "t", None)).map(|letter| (letter.to.to_string(), letter.needs_utf8()));
        assert_eq!(to("agent@exämple.com"), Ok(("agent@xn--exmple-cua.com".into(), false)));
        assert_eq!(to("ägent@exämple.com"), Ok(("ägent@xn--exmple-cua.com".into(), true)));
        for bad in ["a..b@example.com", ".a@example.com", "a@exa/ümple.com", "a@under_score..com.", "a@-"] {
            assert!(Recipient::parse("to", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_subject_of_more_than_one_line_or_900_bytes_is_refused() {
        for bad in ["a\r\nBcc: x@example.com", "a\nb", "a\0b", &"x".repeat(901)] {
            let error = written(&mail("a@example.com", bad, "t", None)).err().unwrap().to_string();
            assert!(error.contains("subject") && !error.contains("Bcc"), "{error}");
        }
        let long = "x".repeat(900);
        let letter = written(&mail("a@example.com", &long, "t", None)).unwrap();
        let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
        assert_eq!(parsed.subject().map(str::len), Some(900));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_field_adds_a_header_or_a_line_that_is_too_long(
            to in "[^@]{1,20}@[^@]{1,20}", subject in any::<String>(), text in any::<String>(), html in any::<Option<String>>(),
        ) {
            let to = Recipient::parse("to", &to).map_or_else(|_| "a@example.com".to_owned(), |to| to.as_str().to_owned());
            let mail = mail(&to, &subject, &text, html.as_deref());
            if let Ok(letter) = written(&mail) {
                let mut found = headers(&letter.bytes);
                found.retain(|name| !name.starts_with("Content-"));
                found.sort();
                let mut wanted = HEADERS.map(str::to_owned);
                wanted.sort();
                prop_assert_eq!(found, wanted);
                let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
                prop_assert_eq!(parsed.to().map(|to| to.iter().count()), Some(1));
            }
        }

        #[test]
        fn every_address_that_a_job_may_have_can_be_written_to(to in "[!-~üß京٣]{1,64}@[a-zä-]{1,20}\\.[a-z一]{2,10}") {
            if Recipient::parse("to", &to).is_ok() {
                let letter = written(&mail(&to, "s", "t", None)).unwrap();
                let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
                let envelope: &str = letter.to.as_ref();
                prop_assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some(envelope));
            }
        }

        #[test]
        fn a_text_comes_through_as_it_was_written(text in "[ -~äß€\n]{0,300}") {
            let letter = written(&mail("a@example.com", "s", &text, None)).unwrap();
            let parsed = MessageParser::default().parse(letter.bytes.as_slice()).unwrap();
            let read = parsed.body_text(0).unwrap_or_default().replace("\r\n", "\n");
            prop_assert_eq!(read.trim_end_matches('\n'), text.trim_end_matches('\n'));
        }
    }
}
