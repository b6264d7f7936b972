//! A mail server for the demo, on this machine alone: it takes what it is given and keeps it, and so much of RFC 5321 that a mailer is
//! content. It has no TLS and knows nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A mail that came in.
#[derive(Debug, Clone)]
pub struct ReceivedMail {
    /// Who it is for, as the envelope says.
    pub to: String,
    /// What it is recognised by.
    pub message_id: String,
    /// All of it, with its lines put together again where they were folded for the way.
    pub text: String,
}

/// What it says to a mail, by whom it is for and how many came for them before: a line of SMTP, after so long.
pub type Answer = dyn Fn(&str, usize) -> (Duration, String) + Send + Sync;

/// The server's keeper; cheap to clone.
#[derive(Clone)]
pub struct Postbox {
    letters: Arc<Mutex<Vec<ReceivedMail>>>,
    seen: Arc<Mutex<HashMap<String, usize>>>,
    answer: Arc<Answer>,
}

impl Postbox {
    /// One that takes everything.
    pub fn new() -> Self {
        Self::answering(|_, _| (Duration::ZERO, "250 taken".into()))
    }

    /// One that says this at the end of each mail. An empty line cuts the connection.
    pub fn answering(answer: impl Fn(&str, usize) -> (Duration, String) + Send + Sync + 'static) -> Self {
        Self { letters: Arc::default(), seen: Arc::default(), answer: Arc::new(answer) }
    }

    /// Every mail that it took, in the order in which they came.
    pub fn letters(&self) -> Vec<ReceivedMail> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many mails came, taken or not.
    pub fn came(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Serves until `shutdown`.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let serving = async {
            while let Ok((socket, _)) = listener.accept().await {
                let (postbox, ended) = (self.clone(), shutdown.clone());
                tokio::spawn(async move { ended.run_until_cancelled(postbox.talk(socket)).await });
            }
        };
        shutdown.run_until_cancelled(serving).await;
    }

    async fn talk(&self, socket: TcpStream) -> std::io::Result<()> {
        let (from, mut to) = socket.into_split();
        let mut from = BufReader::new(from);
        let mut recipient = String::new();
        to.write_all(b"220 postbox\r\n").await?;
        let mut line = String::new();
        loop {
            line.clear();
            if from.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let verb: String = line.chars().take(4).collect::<String>().to_ascii_uppercase();
            let said = match verb.as_str() {
                "EHLO" | "HELO" => "250 postbox".to_owned(),
                "RCPT" => {
                    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                    recipient = inside.map_or_else(String::new, |(address, _)| address.to_owned());
                    "250 ok".to_owned()
                }
                "DATA" => {
                    to.write_all(b"354 go on\r\n").await?;
                    let letter = letter(&mut from, &recipient).await?;
                    let before = self.count(&recipient);
                    let (wait, said) = (self.answer)(&recipient, before);
                    tokio::time::sleep(wait).await;
                    if said.is_empty() {
                        return Ok(());
                    }
                    if said.starts_with('2') {
                        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
                    }
                    said
                }
                "QUIT" => "221 bye".to_owned(),
                _ => "250 ok".to_owned(),
            };
            to.write_all(format!("{said}\r\n").as_bytes()).await?;
        }
    }

    fn count(&self, to: &str) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(to.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

impl Default for Postbox {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a mail to its end.
async fn letter(from: &mut (impl AsyncBufReadExt + Unpin), to: &str) -> std::io::Result<ReceivedMail> {
    let (mut text, mut message_id) = (String::new(), String::new());
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line).await? == 0 || line == ".\r\n" {
            break;
        }
        let content = line.strip_prefix('.').unwrap_or(&line);
        if let Some((name, value)) = content.split_once(':')
            && name.eq_ignore_ascii_case("message-id")
            && message_id.is_empty()
        {
            message_id = value.trim().to_owned();
        }
        match content.strip_suffix("=\r\n") {
            Some(folded) => text.push_str(folded),
            None => text.push_str(content),
        }
    }
    Ok(ReceivedMail { to: to.to_owned(), message_id, text: unquoted(&text) })
}

/// Quoted-printable's `=XX` in plain (RFC 2045, section 6.7); whatever is none stays.
fn unquoted(text: &str) -> String {
    let mut pieces = text.split('=');
    let mut plain = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                plain.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                plain.push(b'=');
                plain.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_quoted_is_plain_again() {
        assert_eq!(unquoted("a=3Db =C3=A9 c=d"), "a=b é c=d");
    }

    #[tokio::test]
    async fn a_mail_is_read_to_its_dot_and_its_folded_lines_are_one() {
        let data = "Message-ID: <n@example.com>\r\n\r\none =\r\nline\r\n..dot\r\n.\r\nQUIT\r\n";
        let letter = letter(&mut data.as_bytes(), "a@example.com").await.unwrap();
        assert_eq!((letter.to.as_str(), letter.message_id.as_str()), ("a@example.com", "<n@example.com>"));
        assert!(letter.text.ends_with("\r\n\r\none line\r\n.dot\r\n"), "{:?}", letter.text);
    }
}
