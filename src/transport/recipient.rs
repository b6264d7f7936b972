//! Whether a refusal names its recipient: then it says nothing of any other mail. By its enhanced status code (RFC 3463), and where that
//! does not say it, by the words that mail servers have for it.

/// What mail servers say of a recipient whom they do not know. Not "mailbox unavailable": RFC 5321, section 4.2.2, has these words for a
/// refusal by policy too, which may be the same for everybody.
const UNKNOWN: [&str; 18] = [
    "user unknown",
    "unknown user",
    "user not found",
    "no such user",
    "no such person",
    "no such recipient",
    "no such mailbox",
    "no such address",
    "recipient unknown",
    "unknown recipient",
    "recipient not found",
    "invalid recipient",
    "unknown mailbox",
    "invalid mailbox",
    "mailbox not found",
    "no mailbox here",
    "does not exist",
    "doesn't exist",
];

/// Whether what was said is about the recipient alone.
///
/// The codes 5.1.x are about the address that was given, and 5.2.x about its mailbox (RFC 3463, sections 3.2 and 3.3); 5.1.7 and 5.1.8
/// are about the sender's, which all mails have in common.
pub(super) fn is_named(said: &str) -> bool {
    match enhanced(said) {
        Some((1, 7 | 8)) => false,
        Some((1 | 2, _)) => true,
        Some(_) | None => {
            let said = said.to_lowercase();
            !said.contains("sender") && UNKNOWN.iter().any(|words| said.contains(words))
        }
    }
}

/// Subject and detail of the first enhanced status code of the class 5 (RFC 3463, section 2), wherever it stands.
fn enhanced(said: &str) -> Option<(u16, u16)> {
    let words = said.split(|c: char| !(c.is_ascii_digit() || c == '.')).map(|word| word.trim_matches('.'));
    words.into_iter().find_map(|word| {
        let (subject, detail) = word.strip_prefix("5.")?.split_once('.')?;
        let number = |text: &str| text.parse().ok().filter(|_| (1..=3).contains(&text.len()));
        Some((number(subject)?, number(detail)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_recipient_by_its_code_or_by_its_words() {
        for said in [
            "5.1.1 <a@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
            "5.1.1 The email account that you tried to reach does not exist. 5.1.1 Please try",
            "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            "5.1.2 The recipient address is not a valid RFC-5321 address.",
            "5.2.1 The email account that you tried to reach is disabled.",
            "5.2.2 mailbox full",
            "User unknown",
            "Unknown user",
            "No such user here",
            "sorry, no mailbox here by that name. (#5.1.1)",
            "5.4.1 Recipient address rejected: user not found",
            "Invalid recipient",
            "{\"error\":\"recipient a@example.com does not exist\"}",
        ] {
            assert!(is_named(said), "{said}");
        }
    }

    #[test]
    fn a_refusal_that_may_be_of_everybody_names_nobody() {
        for said in [
            "",
            "5.7.1 <a@example.com>: Relay access denied",
            "relay not permitted",
            "5.7.1 Unable to relay",
            "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
            "5.7.1 Client host [192.0.2.7] blocked using zen.spamhaus.org",
            "5.1.8 <noreply@example.com>: Sender address rejected: Domain not found",
            "5.1.7 the sender's address does not exist",
            "Sender address rejected: User unknown in local recipient table",
            "5.7.26 Unauthenticated email from example.com is not accepted due to the domain's DMARC policy",
            "Requested action not taken: mailbox unavailable",
            "5.4.1 Recipient address rejected: Access denied",
            "15.1.1 and 5.1 and 5.1.1.1 and 5.1.1234 are no codes",
            "sender domain is not verified",
        ] {
            assert!(!is_named(said), "{said}");
        }
    }
}
