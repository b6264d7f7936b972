//! A connection to a mail server that hands out what it receives line by line.
//!
//! Whatever stands in clear behind the answer to STARTTLS was put there by somebody on the way (RFC 3207, section 6). lettre reads
//! into a buffer that outlives the handshake, and would take it for answers that came encrypted. So nothing behind a line's end is
//! read before it is asked for: such bytes go into the handshake, which fails on them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub(super) struct Lines(pub(super) TcpStream);

impl AsyncTokioStream for Lines {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }
}

impl AsyncRead for Lines {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = into.remaining().min(bytes.len());
        let mut ahead = ReadBuf::new(&mut bytes[..room]);
        let there = ready!(self.0.poll_peek(cx, &mut ahead))?;
        let end = ahead.filled().iter().position(|byte| *byte == b'\n').map_or(there, |at| at + 1);
        // What was seen is there: this reads it, and no more.
        let mut line = ReadBuf::new(&mut bytes[..end]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut line))?;
        into.put_slice(line.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
