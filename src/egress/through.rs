//! What every layer over a connection that only reads in a way of its own has in common: what is written goes through as it is,
//! seen by the layer if it wants to. Must not change or hold back a byte.

/// Makes a layer write to its field `$io`. `$seen` is shown the bytes before they go: of several pieces the first that has any.
macro_rules! writes_through {
    ([$($generics:tt)*] $layer:ty, $io:ident, $seen:expr) => {
        impl $($generics)* tokio::io::AsyncWrite for $layer {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let seen: fn(&mut Self, &[u8]) = $seen;
                seen(&mut self, buf);
                std::pin::Pin::new(&mut self.$io).poll_write(cx, buf)
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$io).poll_shutdown(cx)
            }

            fn is_write_vectored(&self) -> bool {
                self.$io.is_write_vectored()
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let seen: fn(&mut Self, &[u8]) = $seen;
                seen(&mut self, bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf));
                std::pin::Pin::new(&mut self.$io).poll_write_vectored(cx, bufs)
            }
        }
    };
}

pub(super) use writes_through;
