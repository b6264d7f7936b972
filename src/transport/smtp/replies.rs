//! Whatever a mail server answers, byte by byte, over a real socket: a mail counts as delivered only where the server said so in a whole
//! reply, and what is given up was refused by a whole one.

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::domain::note::NoteId;
use crate::domain::password::Password;
use crate::domain::recipient::Recipient;

/// What the server is asked, in this order; the last is the end of the mail.
const ASKED: [&str; 6] = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."];
const USUAL: [&str; 6] =
    ["220 hello\r\n", "250 hello\r\n", "250 fine\r\n", "250 fine\r\n", "354 go on\r\n", "250 taken\r\n"];

/// Gives the answer in question as it stands, every other one as usual, and ends the connection behind an answer that is not whole.
async fn serve(stream: TcpStream, at: usize, answer: Vec<u8>) -> std::io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let mut step = 0;
    loop {
        let is_in_question = step == at;
        let bytes = if is_in_question {
            &answer[..]
        } else {
            USUAL.get(step).map_or(&b"250 fine\r\n"[..], |usual| usual.as_bytes())
        };
        to.write_all(bytes).await?;
        if is_in_question && whole(&answer).is_none() {
            to.shutdown().await?;
            let _ = from.read_to_end(&mut Vec::new()).await;
            return Ok(());
        }
        let mut line = String::new();
        while from.read_line(&mut line).await? > 0 {
            // The mail itself: its lines are read up to the one with a dot.
            if step == 4 && bytes.starts_with(b"354") && line != ".\r\n" {
                line.clear();
                continue;
            }
            break;
        }
        let verb = line.trim_end().split([' ', ':']).next().unwrap_or_default().to_owned();
        match ASKED.iter().position(|asked| *asked == verb) {
            Some(next) => step = next,
            None if verb.is_empty() => return Ok(()),
            None => step = ASKED.len(),
        }
    }
}

/// The code of the whole reply that an answer begins with (RFC 5321, section 4.2.1), by a reading of our own.
fn whole(answer: &[u8]) -> Option<u16> {
    split(answer).map(|(code, _)| code)
}

/// The same, and what stands behind it.
fn split(answer: &[u8]) -> Option<(u16, &str)> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut code = None;
    let mut rest = text;
    loop {
        let (line, behind) = rest.split_once("\r\n")?;
        let digits = line.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        if *code.get_or_insert(digits) != digits {
            return None;
        }
        match line.as_bytes().get(3)? {
            b' ' => return Some((digits.parse().ok()?, behind)),
            b'-' => rest = behind,
            _ => return None,
        }
    }
}

/// A whole reply of one line or several.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let text = "(5\\.[0-9]\\.[0-9] )?[ -~ü]{0,30}";
    ("[2-5][0-5][0-9]", proptest::collection::vec(text, 1..4)).prop_map(|(code, lines)| {
        let last = lines.len() - 1;
        let lines = lines.iter().enumerate();
        let written = lines.map(|(n, line)| format!("{code}{}{line}\r\n", if n == last { ' ' } else { '-' }));
        written.collect::<String>().into_bytes()
    })
}

/// Whole, cut short, with bytes that are others, or anything at all.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let cut = (reply(), any::<prop::sample::Index>()).prop_map(|(mut reply, at)| {
        reply.truncate(at.index(reply.len()));
        reply
    });
    let other = (reply(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut reply, at, byte)| {
        let at = at.index(reply.len());
        reply[at] = byte;
        reply
    });
    prop_oneof![3 => reply(), 1 => cut, 2 => other, 1 => proptest::collection::vec(any::<u8>(), 0..80)]
}

/// Delivers one mail to a server that gives this answer.
async fn delivered(at: usize, answer: Vec<u8>) -> Result<Delivered, Undelivered> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = mailer::Smtp {
        from: "noreply@example.com".parse().unwrap(),
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        tls: Tls::Off,
        ca_file: None,
        login: None,
        pool: 1,
        hello_name: "localhost".into(),
    };
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, at, answer).await
    });
    let mail = Mail {
        id: NoteId::parse("n-1").unwrap(),
        to: Recipient::parse("to", "agent@example.com").unwrap(),
        password: Password::known(zeroize::Zeroizing::new("p4ssword".into())),
        subject: "s".into(),
        text: zeroize::Zeroizing::new("It is p4ssword".into()),
        html: None,
    };
    // Long: an answer is never waited for in vain, since the server ends the connection.
    let smtp = Smtp::new(&server, Duration::from_secs(60)).unwrap();
    let delivered = smtp.deliver(&mail).await;
    drop(smtp);
    // A client that leaves with something unread resets the connection.
    let _ = serving.await.unwrap();
    delivered
}

/// What holds of every answer.
fn holds(at: usize, answer: &[u8], delivered: &Result<Delivered, Undelivered>) -> Result<(), TestCaseError> {
    let code = whole(answer);
    let is_asked_for = code.is_some_and(|code| match at {
        // lettre takes any 3yz for a greeting, too.
        0 | 1 => (200..=399).contains(&code),
        4 => code == 354,
        _ => (200..=299).contains(&code),
    });
    // What stands behind it is taken for the next answer: then the two are out of step, and a later one is named.
    let is_alone = split(answer).is_none_or(|(_, behind)| behind.is_empty());
    match delivered {
        Ok(Delivered { status }) => {
            prop_assert!(is_asked_for, "delivered, though that was no yes");
            prop_assert!(at != 5 || Some(*status) == code);
        }
        // For good, or until somebody acts: by a whole answer alone.
        Err(Undelivered::Never { status, .. } | Undelivered::Stop { status, .. }) => {
            prop_assert!(status.is_some() && *status == code && code >= Some(500), "{delivered:?}");
        }
        Err(Undelivered::Refused { status, .. }) => {
            prop_assert!(at >= 3 && Some(*status) == code && *status >= 500, "{delivered:?}");
        }
        Err(Undelivered::Later { status, .. }) => {
            prop_assert!(at >= 3 && Some(*status) == code && (400..500).contains(status), "{delivered:?}");
        }
        Err(Undelivered::Again { status, .. }) => {
            prop_assert!(status.is_none() || *status == code || !is_alone, "{delivered:?}");
            prop_assert!(
                !(500..=559).contains(&code.unwrap_or_default()),
                "a refusal is not asked again: {delivered:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_mail_is_delivered_or_given_up_by_a_whole_answer_alone(at in 0..ASKED.len(), answer in answer()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let delivered = runtime.block_on(delivered(at, answer.clone()));
        holds(at, &answer, &delivered)?;
    }
}

#[tokio::test]
async fn an_answer_to_ehlo_with_a_line_of_blanks_costs_a_try_and_no_panic() {
    for answer in [&b"250-hello\r\n250   \r\n"[..], b"250-hello\r\n250-   \r\n250 AUTH PLAIN\r\n"] {
        let delivered = delivered(1, answer.to_vec()).await;
        assert!(
            matches!(&delivered, Err(Undelivered::Again { status: None, detail, .. }) if detail.contains("EHLO")),
            "{delivered:?}"
        );
    }
}

#[test]
fn a_whole_answer_is_read_as_one() {
    for (answer, code) in [
        (&b"250 fine\r\n"[..], Some(250)),
        (b"250-one\r\n250 two\r\n", Some(250)),
        (b"250 \r\n", Some(250)),
        (b"250-one\r\n550 two\r\n", None),
        (b"250 fine", None),
        (b"250-one\r\n", None),
        (b"250 fine\n", None),
        (b"25x fine\r\n", None),
        (b"550 Empf\xe4nger\r\n", None),
        (b"", None),
    ] {
        assert_eq!(whole(answer), code, "{}", String::from_utf8_lossy(answer));
    }
}
