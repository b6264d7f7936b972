//! What an answer of a mail server means: a pure table over every reply code, at every stage of the dialogue. Its text says one thing
//! alone: whether a refusal names the recipient.

use super::super::delivery::Undelivered;
use super::super::recipient;

/// How far the dialogue was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Greeting, EHLO, STARTTLS: nothing about this mail was said yet.
    Opening,
    /// AUTH.
    Login,
    /// MAIL FROM: who the mails are from, which is the same for all.
    Sender,
    /// MAIL FROM of a mail that needs what others do not: SMTPUTF8 for its address.
    SenderInUtf8,
    /// RCPT TO.
    Recipient,
    /// DATA, before the first byte of the mail.
    Data,
    /// The mail itself.
    Text,
}

impl Stage {
    /// What the log and a dead mail call it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "the greeting",
            Self::Login => "the login",
            Self::Sender | Self::SenderInUtf8 => "the sender",
            Self::Recipient => "the recipient",
            Self::Data => "the beginning of the mail",
            Self::Text => "the mail",
        }
    }
}

/// What went wrong in the dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SmtpError {
    /// An answer that is not the one asked for.
    Reply {
        /// Its code.
        code: u16,
        /// Its text.
        text: String,
    },
    /// No answer in time.
    TimedOut,
    /// The connection, or what came over it.
    Lost(String),
    /// The two do not come to terms on TLS, or the certificate is not trusted.
    Untrusted(String),
    /// The server does not offer what the configuration demands.
    NotOffered(&'static str),
    /// The server does not offer what this mail needs, and others do not.
    Unable(&'static str),
}

impl SmtpError {
    /// Whether the connection can be used again after this.
    pub(super) fn leaves_connection(&self) -> bool {
        match self {
            // 421: the server is closing it. 2yz and 3yz in a wrong place: the two are out of step.
            Self::Reply { code, .. } => (400..=599).contains(code) && *code != 421,
            Self::Unable(_) => true,
            Self::TimedOut | Self::Lost(_) | Self::Untrusted(_) | Self::NotOffered(_) => false,
        }
    }
}

/// What is done next. (RFC 5321, section 4.2.1: 4yz is asked again, 5yz is not; RFC 4954, section 6: 530, 534, 535 and 538 are about
/// the login, wherever they come.) Greeting, login and sender are the same for every mail. Behind them an answer is about this one where
/// it names the recipient; else (554 relaying denied, a policy, a blocklist) other mails show whether it is.
pub(super) fn classify(stage: Stage, trouble: SmtpError) -> Undelivered {
    let at = stage.as_str();
    let (code, text) = match trouble {
        SmtpError::Reply { code, text } => (code, text),
        SmtpError::TimedOut => return again(None, format!("the mail server did not answer in time at {at}")),
        SmtpError::Lost(why) => {
            return again(None, format!("the connection to the mail server was lost at {at}: {why}"));
        }
        SmtpError::Untrusted(why) => return stop(None, format!("TLS with the mail server failed: {why}")),
        SmtpError::NotOffered(what) => return stop(None, format!("the mail server does not offer {what}")),
        SmtpError::Unable(why) => return never(None, why.to_owned()),
    };
    let detail = format!("{code} at {at}: {text}");
    match (stage, code) {
        (_, 500..=599) if [530, 534, 535, 538].contains(&code) => stop(Some(code), detail),
        // Not one mail would pass: it is not this one that is refused.
        (Stage::Opening | Stage::Login | Stage::Sender, 500..=599) => stop(Some(code), detail),
        // It is the recipient's address that wants this.
        (Stage::SenderInUtf8, 500..=599) => never(Some(code), detail),
        (Stage::Recipient | Stage::Data | Stage::Text, 500..=599) if recipient::is_named(&text) => {
            never(Some(code), detail)
        }
        (Stage::Recipient | Stage::Data | Stage::Text, 500..=599) => Undelivered::Refused { detail, status: code },
        // The server is closing. Its disk is full, which 452 says everywhere but at the recipient, where it is a mailbox.
        (_, 421) | (Stage::SenderInUtf8 | Stage::Data | Stage::Text, 452) => again(Some(code), detail),
        (Stage::SenderInUtf8 | Stage::Recipient | Stage::Data | Stage::Text, 400..=499) => later(code, detail),
        // What would be said to every mail, and what is no answer to what was asked.
        (_, 0..=499 | 600..) => again(Some(code), detail),
    }
}

fn again(status: Option<u16>, detail: String) -> Undelivered {
    Undelivered::Again { detail, status, after: None }
}

fn later(status: u16, detail: String) -> Undelivered {
    Undelivered::Later { detail, status }
}

fn never(status: Option<u16>, detail: String) -> Undelivered {
    Undelivered::Never { detail, status }
}

fn stop(status: Option<u16>, detail: String) -> Undelivered {
    Undelivered::Stop { detail, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(stage: Stage, code: u16) -> &'static str {
        match classify(stage, SmtpError::Reply { code, text: "said".into() }) {
            Undelivered::Again { .. } => "again",
            Undelivered::Later { .. } => "later",
            Undelivered::Refused { .. } => "refused",
            Undelivered::Never { .. } => "never",
            Undelivered::Stop { .. } => "stop",
        }
    }

    /// Every code there can be, in runs of the same meaning.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table over every code")]
    fn every_reply_has_its_meaning_at_every_stage() {
        use Stage::{Data, Login, Opening, Recipient, Sender, SenderInUtf8, Text};
        let mut table = String::new();
        for stage in [Opening, Login, Sender, SenderInUtf8, Recipient, Data, Text] {
            let mut start = 200;
            for code in 200..=599_u16 {
                if code == 599 || named(stage, code) != named(stage, code + 1) {
                    table += &format!("{stage:?} {start}..={code}: {}\n", named(stage, code));
                    start = code + 1;
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        Opening 200..=499: again
        Opening 500..=599: stop
        Login 200..=499: again
        Login 500..=599: stop
        Sender 200..=499: again
        Sender 500..=599: stop
        SenderInUtf8 200..=399: again
        SenderInUtf8 400..=420: later
        SenderInUtf8 421..=421: again
        SenderInUtf8 422..=451: later
        SenderInUtf8 452..=452: again
        SenderInUtf8 453..=499: later
        SenderInUtf8 500..=529: never
        SenderInUtf8 530..=530: stop
        SenderInUtf8 531..=533: never
        SenderInUtf8 534..=535: stop
        SenderInUtf8 536..=537: never
        SenderInUtf8 538..=538: stop
        SenderInUtf8 539..=599: never
        Recipient 200..=399: again
        Recipient 400..=420: later
        Recipient 421..=421: again
        Recipient 422..=499: later
        Recipient 500..=529: refused
        Recipient 530..=530: stop
        Recipient 531..=533: refused
        Recipient 534..=535: stop
        Recipient 536..=537: refused
        Recipient 538..=538: stop
        Recipient 539..=599: refused
        Data 200..=399: again
        Data 400..=420: later
        Data 421..=421: again
        Data 422..=451: later
        Data 452..=452: again
        Data 453..=499: later
        Data 500..=529: refused
        Data 530..=530: stop
        Data 531..=533: refused
        Data 534..=535: stop
        Data 536..=537: refused
        Data 538..=538: stop
        Data 539..=599: refused
        Text 200..=399: again
        Text 400..=420: later
        Text 421..=421: again
        Text 422..=451: later
        Text 452..=452: again
        Text 453..=499: later
        Text 500..=529: refused
        Text 530..=530: stop
        Text 531..=533: refused
        Text 534..=535: stop
        Text 536..=537: refused
        Text 538..=538: stop
        Text 539..=599: refused
        ");
    }

    #[test]
    fn a_refusal_that_names_the_recipient_is_of_this_mail_alone() {
        let refused = |stage, code, text: &str| classify(stage, SmtpError::Reply { code, text: text.into() });
        for stage in [Stage::Recipient, Stage::Data, Stage::Text] {
            let named = refused(stage, 550, "5.1.1 unknown");
            assert!(matches!(named, Undelivered::Never { status: Some(550), .. }), "{named:?}");
            let everybody = refused(stage, 554, "5.7.1 relaying denied");
            assert!(matches!(everybody, Undelivered::Refused { status: 554, .. }), "{everybody:?}");
        }
        let login = refused(Stage::Recipient, 530, "5.1.1 authentication required");
        assert!(matches!(login, Undelivered::Stop { .. }), "{login:?}");
        let sender = refused(Stage::Sender, 550, "5.1.1 unknown");
        assert!(matches!(sender, Undelivered::Stop { .. }), "{sender:?}");
    }

    #[test]
    fn a_connection_is_used_again_after_an_answer_that_leaves_it_open_alone() {
        let reply = |code| SmtpError::Reply { code, text: String::new() };
        for (code, keeps) in [(250, false), (354, false), (421, false), (450, true), (550, true), (552, true)] {
            assert_eq!(reply(code).leaves_connection(), keeps, "{code}");
        }
        for trouble in [SmtpError::TimedOut, SmtpError::Lost("x".into()), SmtpError::NotOffered("STARTTLS")] {
            assert!(!trouble.leaves_connection(), "{trouble:?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_tried_again_and_what_is_not_safe_stops() {
        assert!(matches!(classify(Stage::Text, SmtpError::TimedOut), Undelivered::Again { status: None, .. }));
        assert!(matches!(classify(Stage::Data, SmtpError::Lost("cut".into())), Undelivered::Again { .. }));
        assert!(matches!(classify(Stage::Opening, SmtpError::NotOffered("STARTTLS")), Undelivered::Stop { .. }));
        assert!(matches!(classify(Stage::Opening, SmtpError::Untrusted("x".into())), Undelivered::Stop { .. }));
        assert!(matches!(
            classify(Stage::SenderInUtf8, SmtpError::Unable("x")),
            Undelivered::Never { status: None, .. }
        ));
    }
}
