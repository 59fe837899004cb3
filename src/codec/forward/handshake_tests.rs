use super::*;

const D1: &str = "c1329a75b5280a0e5b4c5cc88e65ca10061f4964b1a6fa8ac12aa036d84556f9a54b4cee4081036761b1f1d52752278bed8a645853270b6571cd1fc4084b2d66";
const D2: &str = "ee6a0d63367d123c6cb68912c6bfb02863109f6d0345d885f2698331a3c3fe3b036b8bc7ae95bb1f89013dcf453c644c1a229a4c108f172474e3e53b1a753efd";
const D3: &str = "9955a584c8ce411e34661ce1edc33c3eff9fea1c6051fd356d85efeb1db4b39d51bc8f827bae7ae38879cdfdb2ccff589f32794ad702fb2ad19fbe43f28a9b19";

fn bytes(from: u8) -> Vec<u8> {
    (from..from + 16).collect()
}

/// Salt, nonce and auth of the known answers.
fn known() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    (bytes(0), bytes(16), bytes(32))
}

fn client() -> Client<'static> {
    Client { host: b"client.example", key: b"sekret", user: Some((b"alice", b"pw")) }
}

#[test]
fn the_digests_are_the_known_answers() {
    let (salt, nonce, auth) = known();
    assert_eq!(Digest::of_key(&salt, b"client.example", &nonce, b"sekret").as_bytes(), D1.as_bytes());
    assert_eq!(Digest::of_user(&auth, b"alice", b"pw").as_bytes(), D2.as_bytes());
    assert_eq!(Digest::of_key(&salt, b"server.example", &nonce, b"sekret").as_bytes(), D3.as_bytes());
}

#[test]
fn both_sides_come_to_an_understanding_and_each_proves_the_key() {
    let (salt, nonce, auth) = known();
    for auth in [&auth[..], b""] {
        let server = Server { host: b"server.example", nonce: &nonce, auth };
        let (mut helo, mut ping, mut pong) = (Vec::new(), Vec::new(), Vec::new());
        server.helo(&mut helo);
        let (helo, end) = Helo::read(&helo).expect("a HELO");
        assert_eq!((helo, end), (Helo { nonce: &nonce, auth, keepalive: true }, end));
        client().ping(&helo, &salt, &mut ping);
        let (ping, _) = Ping::read(&ping).expect("a PING");
        assert_eq!(ping.key_digest, D1.as_bytes());
        assert_eq!(ping.user_digest, if auth.is_empty() { b"" } else { D2.as_bytes() });
        server.judge(&ping, b"sekret", Some(b"pw")).expect("the same key and password");
        server.welcome(&ping, b"sekret", &mut pong);
        assert!(pong.len() < 1_023);
        let (pong, _) = Pong::read(&pong).expect("a PONG");
        assert_eq!(pong.key_digest, D3.as_bytes());
        client().judge(&pong, helo.nonce, &salt).expect("the same key");
    }
}

#[test]
fn a_salt_is_bytes_whether_it_comes_as_text_or_as_binary() {
    let (salt, nonce, _) = known();
    let server = Server { host: b"server.example", nonce: &nonce, auth: b"" };
    // Fluent Bit's is raw bytes in a `str`.
    let salt = [&[0xff, 0xfe][..], &salt[2..]].concat();
    let digest = Digest::of_key(&salt, b"client.example", &nonce, b"sekret");
    for head in [&[0xb0][..], &[0xd9, 16], &[0xda, 0, 16], &[0xc4, 16], &[0xc5, 0, 16], &[0xc6, 0, 0, 0, 16]] {
        let mut ping = b"\x96\xa4PING\xaeclient.example".to_vec();
        ping.extend_from_slice(head);
        ping.extend_from_slice(&salt);
        ping.extend_from_slice(&[0xd9, 128]);
        ping.extend_from_slice(digest.as_bytes());
        ping.extend_from_slice(b"\xa0\xa0rest");
        let (read, end) = Ping::read(&ping).expect("a PING");
        assert_eq!(end, ping.len() - 4);
        assert_eq!(server.judge(&read, b"sekret", None), Ok(()));
    }
}

#[test]
fn another_key_another_user_and_a_ping_of_another_connection_are_denied() {
    let (salt, nonce, auth) = known();
    let server = Server { host: b"server.example", nonce: &nonce, auth: &auth };
    let helo = Helo { nonce: &nonce, auth: &auth, keepalive: true };
    let mut out = Vec::new();
    client().ping(&helo, &salt, &mut out);
    let (ping, _) = Ping::read(&out).expect("a PING");
    assert_eq!(server.judge(&ping, b"sekret", Some(b"pw")), Ok(()));
    assert_eq!(server.judge(&ping, b"sekre", Some(b"pw")), Err(Denied::Key));
    assert_eq!(server.judge(&ping, b"sekret", Some(b"wp")), Err(Denied::User));
    assert_eq!(server.judge(&ping, b"sekret", None), Err(Denied::User));
    let later = Server { nonce: &bytes(99), ..server };
    assert_eq!(later.judge(&ping, b"sekret", Some(b"pw")), Err(Denied::Key), "it was recorded elsewhere");
    let cut = Ping { key_digest: &ping.key_digest[..127], ..ping };
    assert_eq!(server.judge(&cut, b"sekret", Some(b"pw")), Err(Denied::Key));
    let none = Ping { key_digest: b"", user_digest: b"", ..ping };
    assert_eq!(server.judge(&none, b"sekret", Some(b"pw")), Err(Denied::Key));
    // An empty password is not the one of a user who is not known.
    let digest = Digest::of_user(&auth, b"bob", b"");
    let unknown = Ping { user: b"bob", user_digest: digest.as_bytes(), ..ping };
    assert_eq!(server.judge(&unknown, b"sekret", None), Err(Denied::User));
}

#[test]
fn a_client_does_not_take_a_server_that_proves_nothing() {
    let (salt, nonce, auth) = known();
    let client = client();
    let right = Pong { accepted: true, reason: b"", host: b"server.example", key_digest: D3.as_bytes() };
    assert_eq!(client.judge(&right, &nonce, &salt), Ok(()));
    assert_eq!(client.judge(&Pong { key_digest: D1.as_bytes(), ..right }, &nonce, &salt), Err(Refusal::WrongDigest));
    assert_eq!(client.judge(&Pong { key_digest: b"", ..right }, &nonce, &salt), Err(Refusal::WrongDigest));
    // It could send back what it got.
    let mirror = Pong { host: b"client.example", key_digest: D1.as_bytes(), ..right };
    assert_eq!(client.judge(&mirror, &nonce, &salt), Err(Refusal::SameHost("client.example".to_owned())));
    let mut out = Vec::new();
    Server::refuse(&format!("no\n{}", "x".repeat(5_000)), &mut out);
    assert!(out.len() < 1_023);
    let (pong, _) = Pong::read(&out).expect("a PONG");
    let Err(Refusal::Denied(reason)) = client.judge(&pong, &nonce, &salt) else { panic!("{pong:?}") };
    assert!(reason.starts_with("no\\nxx") && reason.len() < 300, "{reason}");
    let asks = Helo { nonce: &nonce, auth: &auth, keepalive: true };
    out.clear();
    Client { user: None, ..client }.ping(&asks, &salt, &mut out);
    let (ping, _) = Ping::read(&out).expect("a PING");
    assert_eq!((ping.user, ping.user_digest), (&b""[..], &b""[..]), "nobody, for a server that has no users");
}

#[test]
fn a_helo_of_fluentd_and_one_of_fluent_bit_are_read() {
    // Fluentd: bin 16, and an auth salt even without users. Fluent Bit: raw bytes as `str`.
    let fluentd = b"\x92\xa4HELO\x83\xa5nonce\xc4\x10aaaaaaaaaaaaaaaa\xa4auth\xa0\xa9keepalive\xc2";
    let expected = Helo { nonce: b"aaaaaaaaaaaaaaaa", auth: b"", keepalive: false };
    assert_eq!(Helo::read(fluentd), Ok((expected, fluentd.len())));
    let bit = b"\x92\xa4HELO\x84\xa5nonce\xa2\xff\xfe\xa4auth\xc4\x01\x00\xa1x\x92\x01\x81\xa1y\xc0\xa1z\xc0";
    assert_eq!(Helo::read(bit), Ok((Helo { nonce: b"\xff\xfe", auth: b"\0", keepalive: true }, bit.len())));
}

/// Sixteen bytes that are no UTF-8, as nonces and salts are.
const NONCE: &[u8; 16] = b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f";
const AUTH: &[u8; 16] = b"\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcc\xcd\xce\xcf";
const RAW_SALT: &[u8; 16] = b"\xff\xfe\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
const HEX_SALT: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

// SHA-512 by another program: salt, host, nonce, "sekret"; auth, "alice", "pw".
const D1_OF_HEX: &str = "e5a9cbb298b09631ea1ed264eef067b508418881b5ee4e659c5664812d3cbcd8d6fc9450aca7d06c7e19240c8dadfbce74c0932200f1fd2b883c6856aa4ad0ac";
const D1_OF_RAW: &str = "afdddfa24469dac7c44c11b0e5fd08bf76b186c1c4978a2d1e12fe79933d3039679fc9e835541e823cc8d7599973963762897ccf16bbfb14f714910df8d6c24e";
const D2_OF_ALICE: &str = "01fb1d2d4ebce51122ffaa899c043bce2daddbd9c568a0f4c5bbc8fc63acd55e259ef8fcfd4faf59b98ac0f02635c270a3158df43e9955ad47f2a32034748bf5";
const D3_OF_HEX: &str = "cf7a485e56a20c286ba152dd863b249a8a665a941ab2474d73613967da92a82b9d27ce743ca0be2bf0567db9ab9bce1bf41491589da8e02feaf8ac05617f8352";

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The message is read as it is, and every cut of it is short.
fn read_in_all_cuts<'a, T>(name: &str, bytes: &'a [u8], read: fn(&'a [u8]) -> Result<(T, usize), Fault>) -> T {
    for cut in 0..bytes.len() {
        assert!(matches!(read(&bytes[..cut]), Err(Fault::Short)), "{name}, cut at {cut}");
    }
    match read(bytes) {
        Ok((message, end)) => {
            assert_eq!(end, bytes.len(), "{name}");
            message
        }
        Err(fault) => panic!("{name}: {fault}"),
    }
}

#[test]
fn the_helo_of_every_server_is_read_wherever_it_is_cut() {
    let fluentd =
        joined(&[b"\x92\xa4HELO\x83\xa5nonce\xc4\x10", NONCE, b"\xa4auth\xc4\x10", AUTH, b"\xa9keepalive\xc3"]);
    let without_users = joined(&[b"\x92\xa4HELO\x83\xa5nonce\xc4\x10", NONCE, b"\xa4auth\xa0\xa9keepalive\xc2"]);
    // Raw bytes in a `str`, and no word about keeping the connection.
    let fluent_bit = joined(&[b"\x92\xa4HELO\x82\xa5nonce\xb0", NONCE, b"\xa4auth\xb0", AUTH]);
    let cases: [(&str, &[u8], &[u8], bool); 3] = [
        ("Fluentd", &fluentd, AUTH, true),
        ("Fluentd that closes after each chunk", &without_users, b"", false),
        ("Fluent Bit", &fluent_bit, AUTH, true),
    ];
    for (name, bytes, auth, keepalive) in cases {
        let helo = read_in_all_cuts(name, bytes, Helo::read);
        assert_eq!(helo, Helo { nonce: NONCE, auth, keepalive }, "{name}");
        let mut ping = Vec::new();
        client().ping(&helo, HEX_SALT, &mut ping);
        // All of it as `str`, which is all that Fluent Bit takes.
        let mut expected =
            joined(&[b"\x96\xa4PING\xaeclient.example\xd9\x20", HEX_SALT, b"\xd9\x80", D1_OF_HEX.as_bytes()]);
        match auth.is_empty() {
            true => expected.extend_from_slice(b"\xa0\xa0"),
            false => expected.extend_from_slice(&joined(&[b"\xa5alice\xd9\x80", D2_OF_ALICE.as_bytes()])),
        }
        assert_eq!(ping, expected, "{name}");
    }
}

#[test]
fn the_ping_of_every_client_is_read_and_judged_wherever_it_is_cut() {
    let ping = |salt: &[u8], digest: &str, user: &[u8]| {
        joined(&[b"\x96\xa4PING\xaeclient.example", salt, b"\xd9\x80", digest.as_bytes(), user])
    };
    let hex = joined(&[b"\xd9\x20", HEX_SALT]);
    let (raw, raw_bin) = (joined(&[b"\xb0", RAW_SALT]), joined(&[b"\xc4\x10", RAW_SALT]));
    let alice = joined(&[b"\xa5alice\xd9\x80", D2_OF_ALICE.as_bytes()]);
    let cases = [
        ("Fluentd", ping(&hex, D1_OF_HEX, b"\xa0\xa0"), false),
        ("Fluentd with a user", ping(&hex, D1_OF_HEX, &alice), true),
        ("Fluent Bit", ping(&raw, D1_OF_RAW, b"\xa0\xa0"), false),
        ("Fluent Bit with a user", ping(&raw, D1_OF_RAW, &alice), true),
        ("the Node logger", ping(&hex, D1_OF_HEX, b"\xa0\xa0"), false),
        ("the Node logger with a user", ping(&hex, D1_OF_HEX, &alice), true),
        ("a client whose salt is `bin`", ping(&raw_bin, D1_OF_RAW, &alice), true),
        ("Wazuh", ping(&raw, D1_OF_RAW, b"\xa0\xa0"), false),
        ("Wazuh with a user", ping(&raw, D1_OF_RAW, &alice), true),
    ];
    for (name, bytes, user) in &cases {
        let ping = read_in_all_cuts(name, bytes, Ping::read);
        assert_eq!(ping.host, b"client.example", "{name}");
        let open = Server { host: b"server.example", nonce: NONCE, auth: b"" };
        assert_eq!(open.judge(&ping, b"sekret", None), Ok(()), "{name}");
        assert_eq!(open.judge(&ping, b"other", None), Err(Denied::Key), "{name}");
        let asks = Server { auth: AUTH, ..open };
        let judged = asks.judge(&ping, b"sekret", Some(b"pw"));
        assert_eq!(judged, if *user { Ok(()) } else { Err(Denied::User) }, "{name}");
        let mut pong = Vec::new();
        open.welcome(&ping, b"sekret", &mut pong);
        assert!(pong.starts_with(b"\x95\xa4PONG\xc3\xa0\xaeserver.example\xd9\x80"), "{name}: {pong:?}");
        assert_eq!(pong.ends_with(D3_OF_HEX.as_bytes()), ping.salt == HEX_SALT, "{name}");
    }
}

#[test]
fn the_pong_of_every_server_is_read_and_judged_wherever_it_is_cut() {
    let welcome = joined(&[b"\x95\xa4PONG\xc3\xa0\xaeserver.example\xd9\x80", D3_OF_HEX.as_bytes()]);
    let pong = read_in_all_cuts("Fluentd and Fluent Bit", &welcome, Pong::read);
    assert_eq!(client().judge(&pong, NONCE, HEX_SALT), Ok(()));
    assert_eq!(client().judge(&pong, AUTH, HEX_SALT), Err(Refusal::WrongDigest));
    let refusals: [(&str, &[u8], &str); 2] = [
        ("Fluentd, another key", b"\x95\xa4PONG\xc2\xb3shared_key mismatch\xa0\xa0", "shared_key mismatch"),
        (
            "Fluentd and Fluent Bit, another user",
            b"\x95\xa4PONG\xc2\xbausername/password mismatch\xa0\xa0",
            "username/password mismatch",
        ),
    ];
    for (name, bytes, reason) in refusals {
        let pong = read_in_all_cuts(name, bytes, Pong::read);
        assert_eq!(client().judge(&pong, NONCE, HEX_SALT), Err(Refusal::Denied(reason.to_owned())), "{name}");
    }
}

#[test]
fn what_a_server_says_is_what_every_client_takes() {
    // Wazuh does not go on without a user where `auth` is not empty; nonces are bytes.
    let mut helo = Vec::new();
    Server { host: b"server.example", nonce: NONCE, auth: b"" }.helo(&mut helo);
    assert_eq!(helo, joined(&[b"\x92\xa4HELO\x83\xa5nonce\xc4\x10", NONCE, b"\xa4auth\xc4\x00\xa9keepalive\xc3"]));
    let mut no = Vec::new();
    Server::refuse("shared_key mismatch", &mut no);
    assert_eq!(no, b"\x95\xa4PONG\xc2\xb3shared_key mismatch\xa0\xa0");
}

#[test]
fn what_is_no_ping_is_known_at_once() {
    for event in [&b"\x93"[..], b"\x94\xaadocker.web", b"\xc0", b"GET / HTTP/1.1", b"\x16\x03\x01", b"[", b"{"] {
        assert_eq!(Ping::read(event), Err(Fault::NotA("PING")), "{event:?}");
    }
    for start in [&b"\x96\xa3"[..], b"\x96\xa4PONG", b"\x96\xa4PX", b"\x96\x00", b"\x96\xc1"] {
        assert_eq!(Ping::read(start), Err(Fault::NotA("PING")), "{start:?}");
    }
    for start in [&b""[..], b"\x96", b"\x96\xa4", b"\x96\xa4PI", b"\x96\xa4PING", b"\x96\xa4PING\xdb\0\0"] {
        assert_eq!(Ping::read(start), Err(Fault::Short), "{start:?}");
    }
    assert_eq!(Ping::read(b"\x96\xa4PING\x01"), Err(Fault::Bad("host name")));
    assert_eq!(Pong::read(b"\x95\xa4PONG\x01"), Err(Fault::Bad("answer")));
    assert_eq!(Helo::read(b"\x92\xa4HELO\x90"), Err(Fault::Bad("options map")));
    assert_eq!(Helo::read(b"\x92\xa4HELO\xdf\xff\xff\xff\xff"), Err(Fault::Bad("options map")));
}

#[test]
fn a_message_above_the_limit_is_known_from_its_head() {
    assert_eq!(Ping::read(b"\x96\xa4PING\xdb\xff\xff\xff\xff"), Err(Fault::TooLong));
    assert_eq!(Ping::read(b"\x96\xa4PING\xa1h\xc5\x10\x00"), Err(Fault::TooLong));
    assert_eq!(Helo::read(b"\x92\xa4HELO\x81\xa1x\xdd\xff\xff\xff\xff"), Err(Fault::TooLong));
    assert_eq!(Helo::read(b"\x92\xa4HELO\x81\xa1x\xc6\x00\x10\x00\x00"), Err(Fault::TooLong));
}

#[test]
fn the_corpus_replays() {
    msgpack::replay("handshake", fuzz_one);
}

proptest::proptest! {
    #[test]
    fn any_bytes_after_any_start_never_panic(
        start in 0usize..3,
        data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let start = [&b"\x92\xa4HELO"[..], b"\x96\xa4PING", b"\x95\xa4PONG"][start];
        fuzz_one(&[start, &data].concat());
        fuzz_one(&data);
    }
}
