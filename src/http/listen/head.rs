//! The head of a connection's first request, read before buffers are set aside for it: a peer that drips a header costs
//! little more than what it has sent. Says nothing about later requests, nor whether what was read is a head.

use super::watched::Connection;
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Read at once, while nobody knows whether more will come.
const PIECE: usize = 512;

/// Reads until the head of a request has ended, `most` bytes are there or the peer has ended. Cancel safe only as a whole.
pub(super) async fn read<S: AsyncRead + Unpin>(mut stream: S, most: usize) -> io::Result<Begun<S>> {
    let mut head = BytesMut::new();
    let mut seen = 0;
    while head.len() < most && !has_end(&head, seen) {
        seen = head.len();
        head.reserve(PIECE);
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(Begun { head: head.freeze(), stream })
}

/// Whether an empty line ends in what came after the first `seen` bytes.
fn has_end(head: &[u8], seen: usize) -> bool {
    let fresh = head.get(seen.saturating_sub(3)..).unwrap_or_default();
    memchr::memmem::find(fresh, b"\n\r\n").is_some() || memchr::memmem::find(fresh, b"\n\n").is_some()
}

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub(super) struct Begun<S> {
    head: Bytes,
    stream: S,
}

impl<S: Connection> Connection for Begun<S> {
    fn forget_unread(&self) {
        self.stream.forget_unread();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let piece = this.head.split_to(this.head.len().min(buffer.remaining()));
        buffer.put_slice(piece.chunk());
        if this.head.is_empty() {
            this.head = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    async fn begun(pieces: &[&[u8]], most: usize) -> (Bytes, Vec<u8>) {
        let (ours, mut theirs) = duplex(1);
        let (stream, ()) = tokio::join!(async { read(ours, most).await.unwrap() }, async {
            for piece in pieces {
                theirs.write_all(piece).await.unwrap();
            }
        });
        theirs.shutdown().await.unwrap();
        let (mut stream, mut all) = (stream, Vec::new());
        let head = stream.head.clone();
        stream.read_to_end(&mut all).await.unwrap();
        (head, all)
    }

    #[tokio::test]
    async fn a_head_ends_with_an_empty_line_however_it_is_cut_and_nothing_is_lost() {
        for head in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"GET / HTTP/1.1\nhost: x\n\n"] {
            assert_eq!(begun(&[head], 4096).await, (Bytes::from_static(head), head.to_vec()));
            // Beyond the head nothing is taken, but for what came in one piece with it.
            let (ours, mut theirs) = duplex(4096);
            theirs.write_all(&[head, b"body"].concat()).await.unwrap();
            assert!(read(ours, 4096).await.unwrap().head.ends_with(b"body"));
        }
    }

    #[tokio::test]
    async fn what_never_ends_or_ends_early_is_handed_on_for_others_to_refuse() {
        let long = b"x".repeat(64);
        let (ours, mut theirs) = duplex(4096);
        theirs.write_all(&long).await.unwrap();
        assert_eq!(read(ours, 40).await.unwrap().head, long, "one piece beyond the bound at most");
        let (ours, theirs) = duplex(16);
        drop(theirs);
        assert!(read(ours, 40).await.unwrap().head.is_empty());
    }
}
