//! Who is told, and how they are reached: today by an e-mail address. What carries, compares or logs a recipient does not know its kind.

use std::borrow::Cow;
use std::fmt;

use idna::AsciiDenyList;
use lettre::Address;

use super::refusal::Refusal;

/// Where the notification goes. Its `Debug` hides it: no log holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// By mail.
    Email(EmailAddress),
}

impl Recipient {
    /// Checks how somebody is reached, by the rules of its kind.
    ///
    /// # Errors
    /// Where it is of no kind; `field` names the place in the message, which never repeats the value.
    pub fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        EmailAddress::parse(field, text).map(Self::Email)
    }

    /// The recipient as text, as it was given.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Email(address) => &address.text,
        }
    }

    /// By it recipients are compared where two spellings of one must meet.
    pub fn key(&self) -> String {
        match self {
            Self::Email(address) => address.text.to_lowercase(),
        }
    }

    /// Their e-mail address; `None`: they are not reached by mail.
    pub fn email(&self) -> Option<&EmailAddress> {
        match self {
            Self::Email(address) => Some(address),
        }
    }
}

/// An address of the form `local@domain`, as a mail server can be given it. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    text: String,
    /// The same for an envelope. lettre writes the mails: what it takes here cannot be refused there.
    envelope: Address,
}

impl EmailAddress {
    /// The longest address, in bytes (RFC 5321, section 4.5.3.1.3).
    pub const MAX: usize = 254;
    /// The longest part before the `@`, in bytes (RFC 5321, section 4.5.3.1.1).
    pub const MAX_LOCAL: usize = 64;
    /// The longest label of a domain, and the longest domain, in bytes (RFC 1035, section 2.3.4).
    const MAX_LABEL: usize = 63;
    const MAX_DOMAIN: usize = 253;
    /// What may stand before the `@` beside letters and digits (RFC 5322, section 3.2.3, `atext`); a dot only between two of them all.
    pub const MARKS: &str = "!#$%&'*+-/=?^_`{|}~";

    /// Checks an address by what a mail server takes (RFC 5321, section 4.1.2): a `Dot-string` before the `@`, which outside ASCII
    /// (RFC 6531) has letters and digits alone, as lettre takes them; and behind it a domain that can be written in ASCII (RFC 5891).
    ///
    /// # Errors
    /// Where it is not such an address; `field` names the place in the message.
    fn parse(field: &str, text: &str) -> Result<Self, Refusal> {
        let wrong = |what: &str| {
            Refusal(format!(
                "{field}: {what} (a text of {} characters); it must be one address of the form local@domain",
                text.chars().count()
            ))
        };
        let Some((local, domain)) = text.rsplit_once('@') else {
            return Err(wrong("it has no @"));
        };
        if local.is_empty() || domain.is_empty() {
            return Err(wrong("one side of the @ is empty"));
        }
        if text.len() > Self::MAX {
            return Err(wrong("it is longer than 254 bytes"));
        }
        if local.len() > Self::MAX_LOCAL {
            return Err(wrong("it has more than 64 bytes before the @"));
        }
        // Outside ASCII letters and digits alone: no quote of a word processor, and nothing that is not seen.
        let is_of_a_name = |c: char| c.is_alphanumeric() || Self::MARKS.contains(c);
        if let Some((at, c)) = local.chars().enumerate().find(|(_, c)| !(*c == '.' || is_of_a_name(*c))) {
            // One that is not seen, or looks like another, is found by its number alone.
            let which = if c.is_ascii() { String::new() } else { format!(", U+{:04X},", u32::from(c)) };
            let what = format!("character {}{which} is none that an address has before the @", at + 1);
            return Err(wrong(&what));
        }
        if local.split('.').any(str::is_empty) {
            return Err(wrong("before the @ a dot stands at an end, or beside another"));
        }
        let domain = ascii(domain).ok_or_else(|| wrong("its domain is not a host name"))?;
        let envelope = Address::new(local, domain).map_err(|_| wrong("it is none that a mail server can be given"))?;
        Ok(Self { text: text.to_owned(), envelope })
    }

    /// The address for the envelope of a mail: its domain in ASCII, so that only what stands before the `@` may need SMTPUTF8.
    pub fn envelope(&self) -> &Address {
        &self.envelope
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EmailAddress(…)")
    }
}

/// Whose addresses may be told: those of a domain (`example.com`), or of every domain below one (`*.example.com`). None given: everybody's.
#[derive(Debug, Clone, Default)]
pub struct AllowedDomains(Vec<String>);

impl AllowedDomains {
    /// Takes the patterns of `notification.allowed_domains`, in any case, and in ASCII or not.
    ///
    /// # Errors
    /// The first of them that is no domain.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let domain = |pattern: &String| {
            let (below, domain) = match pattern.strip_prefix("*.") {
                Some(domain) => ("*.", domain),
                None => ("", pattern.as_str()),
            };
            let domain = ascii(domain).ok_or_else(|| pattern.clone())?;
            Ok(format!("{below}{}", domain.to_ascii_lowercase()))
        };
        patterns.iter().map(domain).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this recipient may be told.
    pub fn allow(&self, recipient: &Recipient) -> bool {
        let Recipient::Email(address) = recipient;
        let domain = address.envelope.domain().to_ascii_lowercase();
        let fits = |pattern: &String| match pattern.strip_prefix('*') {
            Some(below) => domain.len() > below.len() && domain.ends_with(below),
            None => domain == *pattern,
        };
        self.0.is_empty() || self.0.iter().any(fits)
    }
}

/// A domain in ASCII: labels of letters, digits, `-` and `_`, the last two not at an end.
fn ascii(domain: &str) -> Option<String> {
    let domain = match domain.is_ascii() {
        true => Cow::Borrowed(domain),
        false => idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::URL).ok()?,
    };
    let is_label = |label: &str| {
        (1..=EmailAddress::MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with(['-', '_'])
            && !label.ends_with(['-', '_'])
    };
    (domain.len() <= EmailAddress::MAX_DOMAIN && domain.split('.').all(is_label)).then(|| domain.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_allowed_by_their_domain_or_one_above_it_and_all_where_none_is_given() {
        let allowed = |patterns: &[&str], address: &str| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            AllowedDomains::new(&patterns).unwrap().allow(&Recipient::parse("email", address).unwrap())
        };
        let patterns = ["Example.com", "*.example.org", "b\u{fc}cher.example"];
        for good in
            ["a@example.com", "a@EXAMPLE.COM", "a@x.example.org", "a@x.y.Example.org", "a@xn--bcher-kva.example"]
        {
            assert!(allowed(&patterns, good), "{good}");
        }
        for bad in ["a@example.org", "a@x.example.com", "a@notexample.com", "a@example.com.evil", "a@xexample.org"] {
            assert!(!allowed(&patterns, bad), "{bad}");
        }
        assert!(allowed(&[], "a@anywhere.example"));
        for wrong in ["", "*", "*.", "a b", "agent@example.com", ".example.com", "*.*.example.com"] {
            assert_eq!(AllowedDomains::new(&[wrong.to_owned()]).unwrap_err(), wrong);
        }
    }

    fn email(text: &str, fits: bool) {
        assert_eq!(Recipient::parse("email", text).is_ok(), fits, "{text:?}");
    }

    #[test]
    fn an_address_is_local_at_domain() {
        for good in [
            "agent@example.com",
            "a.b+c@sub.example.com",
            "o'neil@example.com",
            "ü@exämple.com",
            "a@localhost",
            "!#$%&'*+-/=?^_`{|}~@example.com",
            "a@under_score.example",
            "a@xn--exmple-cua.com",
            "佐々木２@例え.jp",
            "почта@пример.рф",
        ] {
            email(good, true);
        }
        for bad in [
            "",
            "agent",
            "@example.com",
            "agent@",
            "a@b@c",
            "a b@c",
            "a@b\r\nBcc: x@y",
            "<a@b>",
            "a@b,c@d",
            "a@.b",
            "a@b..c",
        ] {
            email(bad, false);
        }
    }

    #[test]
    fn an_address_that_no_mail_server_takes_is_none() {
        for bad in [
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "“a”@example.com",
            "o’neil@example.com",
            "\u{200b}agent@example.com",
            "\u{feff}agent@example.com",
            "agent\u{200d}@example.com",
            "agent\u{a0}@example.com",
            "agent\u{ad}@example.com",
            "\u{202e}agent@example.com",
            "a\u{fffd}b@example.com",
            "«a»@example.com",
            "a–b@example.com",
            "☕@example.com",
            // lettre takes no mark that stands by itself.
            "u\u{308}@example.com",
            "संपर्क@example.com",
            "agent＠example.com",
            "a@exa!mple.com",
            "a@-b.com",
            "a@b-.com",
            "a@b.com.",
            "a@exämple..com",
            "a@[192.0.2.1]",
            "\"a b\"@example.com",
        ] {
            email(bad, false);
        }
        let local = |bytes: usize| format!("{}@example.com", "x".repeat(bytes));
        email(&local(64), true);
        email(&local(65), false);
        email(&format!("{}@example.com", "ü".repeat(33)), false);
        let domain = |bytes: usize| {
            let labels = ["y".repeat(63), "y".repeat(63), "y".repeat(bytes - 128)].join(".");
            format!("{}@{labels}", "x".repeat(64))
        };
        email(&domain(189), true);
        email(&domain(190), false);
        email(&format!("a@{}.com", "y".repeat(63)), true);
        email(&format!("a@{}.com", "y".repeat(64)), false);
        email(&format!("a@{}.com", "ü".repeat(62)), false);
        let said = Recipient::parse("email", "\u{200b}agent@example.com").unwrap_err().to_string();
        assert!(said.contains("character 1, U+200B,"), "{said}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_an_address_is_one_for_the_mailer_too(text in "\\PC{1,12}@\\PC{1,20}|[a-z.“ü\u{200b}]{1,66}@[a-z.ü-]{1,30}") {
            if let Ok(address) = EmailAddress::parse("email", &text) {
                let envelope: &str = address.envelope().as_ref();
                prop_assert_eq!(&envelope.parse::<Address>().unwrap(), address.envelope());
                prop_assert!(address.envelope().domain().is_ascii());
                prop_assert_eq!(EmailAddress::parse("email", envelope).map(|again| again.envelope().clone()), Ok(address.envelope().clone()));
            }
        }
    }

    #[test]
    fn a_recipient_is_the_same_in_any_case_and_neither_its_debug_nor_a_refusal_shows_it() {
        let parse = |text: &str| Recipient::parse("email", text);
        let recipient = parse("Agent@Example.com").unwrap();
        assert_eq!(recipient.as_str(), "Agent@Example.com");
        assert_eq!(recipient.key(), parse("agent@example.com").unwrap().key());
        assert!(!format!("{recipient:?}").to_lowercase().contains("agent"));
        assert!(!parse("hunter2 secret").unwrap_err().to_string().contains("hunter2"));
    }
}
