//! Names inside a bottle: answered from arithmetic, never forwarded, so no name can carry a secret out.
//!
//! A gets the computed address, every other type an empty answer; several questions in one are REFUSED, operations other than a
//! query NOTIMP. UDP is answered *as* the
//! address that was asked (9.9.9.9, say), by [`crate::os::datagram`]. No allow-list is asked here: a name that is not on
//! it gets an address, too, and is refused where it connects, with a reason that can be read.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::address::NameBook;
use super::deny::{Denial, Deny};
use super::name::Host;
use super::record::{Denied, Recorder};
use crate::os::datagram;

/// Seconds that a client may keep an answer. Answers never change.
const TTL: u32 = 300;
/// Largest query taken; ours to answer are far below.
pub(super) const MAX_QUERY: usize = 4096;
/// TCP connections at once.
pub(super) const TCP_AT_ONCE: usize = 64;
/// How long a TCP client may take for its next query.
pub(super) const TCP_IDLE: Duration = Duration::from_secs(10);

/// Largest answer over UDP that we say to take and could give (DNS Flag Day 2020); ours fit into 512 bytes.
const PAYLOAD: u16 = 1232;

/// What came of one query.
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    /// The name and the type that were refused.
    pub(super) refused: Option<(String, String)>,
}

/// Answers one query. `None` = not even a header that can be answered, or itself an answer.
pub(super) fn reply_to(query: &[u8], book: &NameBook) -> Option<Reply> {
    let message = match Message::from_vec(query) {
        Ok(message) => message,
        Err(_) => {
            // Enough of a header to be told so; never for an answer, lest two servers talk for ever.
            let (&[a, b], flags) = (query.first_chunk::<2>()?, *query.get(2)?);
            if query.len() < 12 || flags & 0x80 != 0 {
                return None;
            }
            let error = Message::error_msg(u16::from_be_bytes([a, b]), OpCode::Query, ResponseCode::FormErr);
            return Some(Reply { bytes: error.to_vec().ok()?, refused: Some(("?".into(), "broken".into())) });
        }
    };
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if message.edns.is_some() {
        // RFC 6891, 6.1.1: who speaks it is answered in it.
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        reply.set_edns(edns);
    }
    let refused = fill(&message, &mut reply, book);
    Some(Reply { bytes: reply.to_vec().ok()?, refused })
}

/// Writes the answer into `reply`. Returns name and type of what was refused.
fn fill(message: &Message, reply: &mut Message, book: &NameBook) -> Option<(String, String)> {
    if message.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return Some(("?".into(), format!("{:?}", message.metadata.op_code)));
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        reply.metadata.response_code = ResponseCode::BADVERS;
        return Some(("?".into(), "EDNS of another version".into()));
    }
    let [query] = message.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::Refused;
        return Some(("?".into(), format!("{} questions", message.queries.len())));
    };
    reply.add_query(query.clone());
    let name = query.name().to_ascii();
    let kind = query.query_type();
    if query.query_class() != DNSClass::IN {
        reply.metadata.response_code = ResponseCode::Refused;
        return Some((name, format!("class {}", query.query_class())));
    }
    match kind {
        RecordType::A | RecordType::AAAA => match Host::parse(&name) {
            Ok(Host::Name(text)) => {
                if let Some(data) = address(&text, kind, book) {
                    let owner: Name = query.name().clone();
                    reply.add_answer(Record::from_rdata(owner, TTL, data));
                }
                None
            }
            // An address needs no answer from us, and what is no host name has none.
            Ok(Host::Ip(_)) | Err(_) => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                None
            }
        },
        RecordType::HTTPS | RecordType::SVCB => None,
        // There is none of that type (RFC 2308, 2.2): a resolver goes on at once. It is told all the same: no agent's tools need
        // it, and it is how secrets are asked out.
        other => Some((name, other.to_string())),
    }
}

fn address(name: &str, kind: RecordType, book: &NameBook) -> Option<RData> {
    let local = name == "localhost" || name.ends_with(".localhost");
    match (kind, local) {
        // RFC 6761, 6.3: these never leave the host, and here the host is the agent's own namespace.
        (RecordType::A, true) => Some(RData::A(A(Ipv4Addr::LOCALHOST))),
        (RecordType::AAAA, true) => Some(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        (RecordType::A, false) => Some(RData::A(A(book.enter(name, &Host::Name(name.into()))))),
        _ => None,
    }
}

fn denied(name: &str, kind: &str) -> Denied {
    let deny = Deny::new(Denial::ProtocolUnknown, format!("bb: DNS queries of type {kind} are not answered."));
    let mut name = name.to_owned();
    name.truncate(256);
    Denied::new("dns", name, 53, &deny)
}

/// Serves one UDP socket until it is dropped.
pub async fn serve_udp(socket: UdpSocket, book: Arc<NameBook>, recorder: Arc<Recorder>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    datagram::prepare(&socket)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0u8; MAX_QUERY];
    loop {
        // Errors here are about one datagram (a port that refused an earlier answer).
        let received = socket.async_io(Interest::READABLE, || datagram::receive(&socket, &mut buffer)).await;
        let Ok(received) = received else { continue };
        let query = buffer.get(..received.length).unwrap_or_default();
        let Some(reply) = reply_to(query, &book) else { continue };
        if let Some((name, kind)) = &reply.refused {
            recorder.deny_limited(denied(name, kind));
        }
        // A full send buffer loses the answer; resolvers ask again.
        let _ = datagram::answer(&socket, &reply.bytes, &received);
    }
}

/// Serves DNS over TCP on one listener until it is dropped.
pub async fn serve_tcp(listener: TcpListener, book: Arc<NameBook>, recorder: Arc<Recorder>) {
    let places = Arc::new(Semaphore::new(TCP_AT_ONCE));
    // They end with this: nothing of a bottle that is closed goes on.
    let mut open = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (book, recorder) = (Arc::clone(&book), Arc::clone(&recorder));
        while open.try_join_next().is_some() {}
        open.spawn(async move {
            let _ = converse(stream, &book, &recorder).await;
            drop(place);
        });
    }
}

async fn converse(mut stream: TcpStream, book: &NameBook, recorder: &Recorder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let query = tokio::time::timeout(TCP_IDLE, async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUERY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut query = vec![0u8; length];
            stream.read_exact(&mut query).await?;
            Ok::<_, io::Error>(query)
        })
        .await??;
        let Some(reply) = reply_to(&query, book) else { return Ok(()) };
        if let Some((name, kind)) = &reply.refused {
            recorder.deny_limited(denied(name, kind));
        }
        let length = u16::try_from(reply.bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply.bytes);
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::Query;

    use super::super::address::of_name;
    use super::super::record::tests::recorder;
    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn answer(message: &Message) -> (Message, bool) {
        let reply = reply_to(&message.to_vec().unwrap(), &NameBook::new()).unwrap();
        (Message::from_vec(&reply.bytes).unwrap(), reply.refused.is_some())
    }

    fn addresses(message: &Message) -> Vec<IpAddr> {
        message
            .answers
            .iter()
            .filter_map(|r| match &r.data {
                RData::A(a) => Some(a.0.into()),
                RData::AAAA(a) => Some(a.0.into()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_name_has_its_computed_address_however_it_is_spelled() {
        let (reply, _) = answer(&ask("API.Anthropic.com.", RecordType::A));
        assert_eq!(addresses(&reply), [IpAddr::from(of_name("api.anthropic.com"))]);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    }

    #[test]
    fn there_is_no_ipv6_and_no_service_record_and_that_is_no_error() {
        for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB] {
            let (reply, refused) = answer(&ask("api.anthropic.com.", kind));
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(reply.answers.is_empty() && !refused, "{kind}");
        }
    }

    #[test]
    fn other_types_have_no_answer_and_odd_queries_are_refused_and_both_are_told() {
        for kind in [RecordType::TXT, RecordType::MX, RecordType::NULL, RecordType::ANY, RecordType::PTR] {
            let (reply, refused) = answer(&ask("secret.example.com.", kind));
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(refused && reply.answers.is_empty(), "{kind}");
        }
        let mut two = ask("a.example.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
        assert_eq!(answer(&two).0.metadata.response_code, ResponseCode::Refused);
        let mut chaos = Message::query();
        let mut query = Query::query(Name::from_ascii("version.bind.").unwrap(), RecordType::A);
        query.set_query_class(DNSClass::CH);
        chaos.add_query(query);
        assert_eq!(answer(&chaos).0.metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn operations_that_are_no_query_are_not_implemented() {
        for code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
            let mut message = ask("a.example.", RecordType::A);
            message.metadata.op_code = code;
            let (reply, refused) = answer(&message);
            assert_eq!((reply.metadata.response_code, reply.metadata.op_code), (ResponseCode::NotImp, code));
            assert!(refused && reply.answers.is_empty());
        }
    }

    #[test]
    fn edns_is_answered_in_kind_and_fits_into_what_every_client_takes() {
        let longest = [&*"a".repeat(63), &"B".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
        let mut message = ask(&format!("{longest}."), RecordType::A);
        assert!(answer(&message).0.edns.is_none());
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        message.set_edns(edns);
        let reply = reply_to(&message.to_vec().unwrap(), &NameBook::new()).unwrap();
        assert!(reply.bytes.len() <= 512, "{}", reply.bytes.len());
        let reply = Message::from_vec(&reply.bytes).unwrap();
        assert_eq!(addresses(&reply), [IpAddr::from(of_name(&longest.to_ascii_lowercase()))]);
        assert_eq!(reply.edns.as_ref().unwrap().max_payload(), PAYLOAD);
        assert!(!reply.metadata.truncation);

        message.edns.as_mut().unwrap().set_version(1);
        let (reply, refused) = answer(&message);
        assert_eq!(u16::from(reply.metadata.response_code), u16::from(ResponseCode::BADVERS));
        assert!(refused && reply.answers.is_empty());
    }

    /// A query for what stands in `name`, as bytes.
    fn raw(name: &[u8]) -> Vec<u8> {
        [&b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..], name, b"\0\x01\0\x01"].concat()
    }

    #[test]
    fn names_that_no_name_server_would_take_end_the_query_or_have_no_address() {
        let code = |query: &[u8]| {
            let reply = reply_to(query, &NameBook::new()).unwrap();
            let message = Message::from_vec(&reply.bytes).unwrap();
            assert!(message.answers.is_empty(), "{query:?}");
            assert_eq!(message.metadata.id, 0x1234);
            message.metadata.response_code
        };
        let label = |length: u8| [&[length][..], &vec![b'a'; usize::from(length)]].concat();
        for broken in [
            // A label that is longer than there can be; two kinds that there are not; a name that is too long.
            raw(&[label(64), vec![0]].concat()),
            raw(&[label(0x80), vec![0]].concat()),
            raw(&[label(63), label(63), label(63), label(63), vec![0]].concat()),
            // A pointer to itself, one ahead, one that goes round, and one beyond the end.
            raw(b"\xc0\x0c"),
            raw(b"\xc0\x0e\x01a\0"),
            raw(b"\x01a\xc0\x0c"),
            raw(b"\xff\xff"),
            // The end is missing.
            raw(b"\x03abc"),
        ] {
            assert_eq!(code(&broken), ResponseCode::FormErr, "{broken:?}");
        }
        for odd in [
            &b"\x03a.b\0"[..],
            b"\x03a\0b\x07example\0",
            b"\x03a b\0",
            b"\x04\xff\xfe\xfd\xfc\0",
            b"\x01*\x07example\0",
            b"\0",
            b"\x03127\x011\0",
            b"\x0a2130706433\0",
            b"\x02-a\x07example\0",
        ] {
            assert_eq!(code(&raw(odd)), ResponseCode::NXDomain, "{odd:?}");
        }
        // Cut anywhere: told so, or nothing at all, but never an address.
        let whole = ask("a.example.", RecordType::A).to_vec().unwrap();
        for end in 0..whole.len() {
            match reply_to(&whole[..end], &NameBook::new()) {
                Some(reply) => {
                    let reply = Message::from_vec(&reply.bytes).unwrap();
                    assert!(reply.answers.is_empty() && reply.metadata.response_code != ResponseCode::NoError, "{end}");
                }
                None => assert!(end < 12, "{end}"),
            }
        }
    }

    #[test]
    fn answers_and_scraps_get_no_reply_and_broken_queries_an_error() {
        let book = NameBook::new();
        let mut response = ask("a.example.", RecordType::A).to_vec().unwrap();
        response[2] |= 0x80;
        assert!(reply_to(&response, &book).is_none());
        assert!(reply_to(b"xx", &book).is_none());
        let mut broken = ask("a.example.", RecordType::A).to_vec().unwrap();
        broken.truncate(15);
        let reply = reply_to(&broken, &book).unwrap();
        assert_eq!(Message::from_vec(&reply.bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
    }

    #[test]
    fn localhost_stays_local() {
        assert_eq!(addresses(&answer(&ask("app.localhost.", RecordType::A)).0), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(addresses(&answer(&ask("localhost.", RecordType::AAAA)).0), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    }

    #[tokio::test]
    async fn udp_answers_come_from_the_address_that_was_asked() {
        for (listen, ask_at, from) in [
            ("0.0.0.0:0", "127.0.0.53", "127.0.0.1:0"),
            ("[::]:0", "127.0.0.77", "127.0.0.1:0"),
            ("[::]:0", "::1", "[::1]:0"),
        ] {
            let socket = UdpSocket::bind(listen).unwrap();
            let port = socket.local_addr().unwrap().port();
            let server = tokio::spawn(serve_udp(socket, Arc::new(NameBook::new()), Arc::new(recorder().0)));
            let client = tokio::net::UdpSocket::bind(from).await.unwrap();
            let target = std::net::SocketAddr::new(ask_at.parse().unwrap(), port);
            // Connected: an answer from any other address would not be delivered.
            client.connect(target).await.unwrap();
            client.send(&ask("example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
            let mut buffer = [0u8; 512];
            let length =
                tokio::time::timeout(Duration::from_secs(30), client.recv(&mut buffer)).await.expect(ask_at).unwrap();
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(addresses(&reply), [IpAddr::from(of_name("example.com"))]);
            server.abort();
        }
    }

    #[tokio::test]
    async fn tcp_answers_query_after_query() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_tcp(listener, Arc::new(NameBook::new()), Arc::new(recorder().0)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for name in ["a.example.", "b.example."] {
            let query = ask(name, RecordType::A).to_vec().unwrap();
            stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
            stream.write_all(&query).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut reply = vec![0u8; usize::from(length)];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(
                addresses(&Message::from_vec(&reply).unwrap()),
                [IpAddr::from(of_name(name.trim_end_matches('.')))]
            );
        }
        server.abort();
    }

    #[tokio::test]
    async fn tcp_takes_queries_in_any_pieces_and_no_games_with_lengths() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_tcp(listener, Arc::new(NameBook::new()), Arc::new(recorder().0)));
        let framed = |name: &str| {
            let query = ask(name, RecordType::A).to_vec().unwrap();
            [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat()
        };
        async fn answer(stream: &mut TcpStream) -> Vec<IpAddr> {
            let length = stream.read_u16().await.unwrap();
            let mut reply = vec![0u8; usize::from(length)];
            stream.read_exact(&mut reply).await.unwrap();
            addresses(&Message::from_vec(&reply).unwrap())
        }
        // Both at once, then byte by byte.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&[framed("a.example."), framed("b.example.")].concat()).await.unwrap();
        assert_eq!(answer(&mut stream).await, [IpAddr::from(of_name("a.example"))]);
        assert_eq!(answer(&mut stream).await, [IpAddr::from(of_name("b.example"))]);
        for byte in framed("c.example.") {
            stream.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(answer(&mut stream).await, [IpAddr::from(of_name("c.example"))]);

        // A length of nothing, one beyond every query, one that is never reached, an answer in place of a query: closed, unanswered.
        let mut response = framed("a.example.");
        response[4] |= 0x80;
        let games = [vec![0, 0], vec![0x10, 0x01, 0], [&[0x02, 0][..], &framed("a.example.")].concat(), response];
        for game in games {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&game).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            // Closed, or reset where something was left unread.
            let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.unwrap();
            assert!(rest.is_empty(), "{game:?}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn conversations_end_with_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (recorder, _events) = recorder();
        let served = tokio::spawn(serve_tcp(listener, Arc::new(NameBook::new()), Arc::new(recorder)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let query = ask("a.example.", RecordType::A).to_vec().unwrap();
        stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        stream.read_exact(&mut vec![0; usize::from(length)]).await.unwrap();
        served.abort();
        let began = std::time::Instant::now();
        let end = stream.read(&mut [0]).await;
        assert!(!matches!(end, Ok(1..)), "{end:?}");
        assert!(began.elapsed() < TCP_IDLE, "it was idle that ended it");
    }
}
