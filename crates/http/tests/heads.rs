//! Request heads: what is accepted, what is ambiguous, and how early that is certain; every case at every split.

mod check;

use check::EVERYWHERE;
use check::head::{read, same_however_split, table};
use redir_http::Ambiguity;
use redir_http::filter::Table;
use redir_http::head::{MAX_HEAD, RequestHead};

/// The number of bytes after which the verdict is an error.
fn certain_after(wire: &[u8]) -> Option<usize> {
    (1..=wire.len()).find(|&len| read(wire, [len], &table()).is_err())
}

#[test]
fn each_ambiguity_has_its_name_as_soon_as_it_is_certain() {
    use Ambiguity::*;
    for (wire, expected, after) in [
        // The request line.
        (&b"get / HTTP/1.1\r\n\r\n"[..], Method, 1),
        (b"Get / HTTP/1.1\r\n\r\n", Method, 2),
        (b"G\x00T / HTTP/1.1\r\n\r\n", Method, 2),
        (b"GET\t/ HTTP/1.1\r\n\r\n", Method, 4),
        (b" GET / HTTP/1.1\r\n\r\n", Method, 1),
        (b"GET\r\n\r\n", Method, 4),
        (b"\xef\xbb\xbfGET / HTTP/1.1\r\n\r\n", Method, 1),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n", Method, 33),
        (b"\x16\x03\x01\x00", Method, 1),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", EmptyLine, 1),
        (b"\nGET / HTTP/1.1\r\n\r\n", EmptyLine, 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Preface, 4),
        (b"GET  / HTTP/1.1\r\n\r\n", Target, 5),
        (b"GET / extra HTTP/1.1\r\n\r\n", Version, 7),
        (b"GET /  HTTP/1.1\r\n\r\n", Version, 7),
        (b"GET /a\tb HTTP/1.1\r\n\r\n", Target, 7),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", Target, 6),
        (b"GET /\x7f HTTP/1.1\r\n\r\n", Target, 6),
        (b"GET /\x85 HTTP/1.1\r\n\r\n", Target, 6),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", Target, 6),
        (b"GET /a#b HTTP/1.1\r\n\r\n", Target, 7),
        (b"GET a HTTP/1.1\r\n\r\n", Target, 6),
        (b"GET * HTTP/1.1\r\n\r\n", Target, 6),
        (b"OPTIONS ** HTTP/1.1\r\n\r\n", Target, 11),
        (b"GET ftp://a/b HTTP/1.1\r\n\r\n", Target, 14),
        (b"GET http:///a HTTP/1.1\r\n\r\n", Target, 14),
        (b"GET http://?a HTTP/1.1\r\n\r\n", Target, 14),
        (b"GET http:// HTTP/1.1\r\n\r\n", Target, 12),
        (b"GET http:/a/b HTTP/1.1\r\n\r\n", Target, 14),
        (b"GET http:\\\\a/b HTTP/1.1\r\n\r\n", Target, 15),
        (b"GET http://a\\b/dev HTTP/1.1\r\n\r\n", Target, 19),
        (b"GET http://a\\@b/dev HTTP/1.1\r\n\r\n", Target, 20),
        (b"GET http://a\"b/dev HTTP/1.1\r\n\r\n", Target, 19),
        (b"CONNECT /a HTTP/1.1\r\n\r\n", Target, 11),
        (b"CONNECT a?b:1 HTTP/1.1\r\n\r\n", Target, 14),
        (b"CONNECT a@b:1 HTTP/1.1\r\n\r\n", Target, 14),
        (b"CONNECT a\\b:1 HTTP/1.1\r\n\r\n", Target, 14),
        (b"CONNECT http://a/b HTTP/1.1\r\n\r\n", Target, 19),
        (b"GET /\r\n", Http09, 6),
        (b"GET /\n", Http09, 6),
        (b"GET / \r\n", Version, 7),
        (b"GET / HTTP/1.2\r\n\r\n", Version, 14),
        (b"GET / HTTP/2.0\r\n\r\n", Version, 12),
        (b"GET / HTTP/0.9\r\n\r\n", Version, 12),
        (b"GET / HTTP/11\r\n\r\n", Version, 13),
        (b"GET / HTTP/1.10\r\n\r\n", Version, 15),
        (b"GET / http/1.1\r\n\r\n", Version, 7),
        (b"GET / HTTP/1.1 \r\n\r\n", Version, 15),
        (b"GET / HTTP/1.1\t\r\n\r\n", Version, 15),
        (b"GET / HTTPS/1.1\r\n\r\n", Version, 11),
        (b"GET / HTTP/1.1\n\r\n", BareLf, 15),
        (b"GET / HTTP/1.1\r\r\n", BareCr, 16),
        (b"GET / HTTP/1.1\rA: b\r\n", BareCr, 16),
        // Field lines.
        (b"GET / HTTP/1.1\r\n A: b\r\n\r\n", ObsFold, 17),
        (b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n", ObsFold, 17),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", ObsFold, 23),
        (b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", ObsFold, 23),
        (b"GET / HTTP/1.1\r\nA: b\r\n \r\n\r\n", ObsFold, 23),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", BareCr, 22),
        (b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n", BareCr, 22),
        (b"GET / HTTP/1.1\r\nA: b\r\n\rX", BareCr, 24),
        (b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", BareLf, 21),
        (b"GET / HTTP/1.1\r\nA: b\r\n\n", BareLf, 23),
        (b"GET / HTTP/1.1\r\n\n", BareLf, 17),
        (b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n", Control, 21),
        (b"GET / HTTP/1.1\r\nA: b\x0b\r\n\r\n", Control, 21),
        (b"GET / HTTP/1.1\r\nA: \x0cb\r\n\r\n", Control, 20),
        (b"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", Control, 21),
        (b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n", Control, 18),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", SpaceBeforeColon, 18),
        (b"GET / HTTP/1.1\r\nA\t: b\r\n\r\n", SpaceBeforeColon, 18),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", SpaceBeforeColon, 18),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", NoColon, 18),
        (b"GET / HTTP/1.1\r\nA\nB: c\r\n", BareLf, 18),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", EmptyName, 17),
        (b"GET / HTTP/1.1\r\nA(: b\r\n\r\n", FieldName, 18),
        (b"GET / HTTP/1.1\r\n\"A\": b\r\n\r\n", FieldName, 17),
        (b"GET / HTTP/1.1\r\nA\xc3\xa9: b\r\n\r\n", FieldName, 18),
        (b"GET / HTTP/1.1\r\nA/b: c\r\n\r\n", FieldName, 18),
        (b"GET / HTTP/1.1\r\n[A]: b\r\n\r\n", FieldName, 17),
        // Framing.
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", LengthTwice, 54),
        (b"GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", LengthOdd, 36),
        (b"GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", LengthOdd, 38),
        (b"GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", LengthOdd, 33),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", LengthAndCoding, 63),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", CodingOdd, 50),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", CodingTwice, 66),
        (b"GET / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n", LookalikeName, 44),
        (b"GET / HTTP/1.1\r\nExpect: 200-ok\r\n\r\n", ExpectOdd, 32),
    ] {
        let shown = wire.escape_ascii();
        assert_eq!(same_however_split(wire, EVERYWHERE, &table()), Err(expected), "{shown}");
        assert_eq!(certain_after(wire), Some(after), "{shown}");
    }
}

#[test]
fn what_is_common_is_accepted() {
    for wire in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/1.0\r\n\r\n",
        b"VERSION-CONTROL /a HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS /a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1]:80/b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://me:%20@a.b:80?c HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //a//b/../c?d=e&f=%20'\"<>\\^`{|} HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nA:\r\nB: \r\nC:d\r\nD: \t e \t\r\n\r\n",
        b"GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~09azAZ: \xff\x80 \"x\"\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let shown = wire.escape_ascii();
        let verdict = same_however_split(wire, EVERYWHERE, &table());
        assert!(matches!(&verdict, Ok(Some(verdict)) if verdict.len == wire.len()), "{verdict:?} {shown}");
        check::head::request(wire, EVERYWHERE);
        let more = [wire, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(same_however_split(&more, EVERYWHERE, &table()), verdict, "{shown}");
    }
}

#[test]
fn every_byte_around_transfer_encoding_is_exact_or_ambiguous() {
    let line = b"Transfer-Encoding: chunked\r\n";
    for at in 0..=line.len() {
        for byte in (0x00..=0x20).chain(0x7f..=0xff) {
            for replace in [false, true] {
                let mut odd = line.to_vec();
                if replace && at < line.len() {
                    odd[at] = byte;
                } else {
                    odd.insert(at, byte);
                }
                if odd == line {
                    continue;
                }
                let wire = [b"POST / HTTP/1.1\r\nHost: a\r\n", odd.as_slice(), b"Content-Type: x\r\n\r\n"].concat();
                let verdict = same_however_split(&wire, EVERYWHERE, &table());
                assert!(verdict.is_err(), "byte {byte:#x} at {at}: {verdict:?}");
            }
        }
    }
}

#[test]
fn paths_and_queries_are_found_in_every_form() {
    for (wire, path, query) in [
        ("GET /a?b=c?d HTTP/1.1\r\n\r\n", "/a", "b=c?d"),
        ("GET /a? HTTP/1.1\r\n\r\n", "/a", ""),
        ("GET /?a HTTP/1.1\r\n\r\n", "/", "a"),
        ("GET http://h/a?b HTTP/1.1\r\n\r\n", "/a", "b"),
        ("GET http://h HTTP/1.1\r\n\r\n", "", ""),
        ("GET http://h?b HTTP/1.1\r\n\r\n", "", "b"),
        ("OPTIONS * HTTP/1.1\r\n\r\n", "*", ""),
        ("CONNECT h:1 HTTP/1.1\r\n\r\n", "", ""),
    ] {
        let mut head = RequestHead::new();
        head.advance(wire.as_bytes(), Table::empty().names()).unwrap();
        let (found_path, found_query) = head.path_and_query(wire.as_bytes());
        assert_eq!((&wire[found_path], &wire[found_query]), (path, query), "{wire:?}");
    }
}

#[test]
fn a_head_ends_within_its_limit_or_is_too_long() {
    let line = |len: usize| [b"GET / HTTP/1.1\r\nA: ".as_slice(), &vec![b'a'; len - 23], b"\r\n\r\n"].concat();
    let fits = line(MAX_HEAD);
    assert_eq!(fits.len(), MAX_HEAD);
    assert!(matches!(read(&fits, [fits.len()], &table()), Ok(Some(verdict)) if verdict.len == MAX_HEAD));
    let long = line(MAX_HEAD + 1);
    for ends in [vec![long.len()], vec![MAX_HEAD - 1, MAX_HEAD], vec![100, MAX_HEAD, long.len()]] {
        assert_eq!(read(&long, ends, &table()), Err(Ambiguity::HeadTooLong));
    }
    let target = [b"GET /".as_slice(), &vec![b'a'; MAX_HEAD]].concat();
    assert_eq!(read(&target, [target.len()], &table()), Err(Ambiguity::HeadTooLong));
}

#[test]
fn a_table_that_changes_inside_a_head_is_the_one_that_decides() {
    let wire = b"GET /x HTTP/1.1\r\nX-User: alice\r\nX-Flag: 1\r\n\r\n";
    let (empty, full) = (Table::empty(), table());
    for split in 0..wire.len() {
        let mut head = RequestHead::new();
        head.advance(&wire[..split], empty.names()).unwrap();
        head.advance(wire, full.names()).unwrap();
        assert_eq!(full.matching(&mut head, wire), Ok(vec![0, 1]), "split at {split}");
        assert_eq!(empty.decide(&mut head, wire), Ok(None));
        assert_eq!(full.decide(&mut head, wire), Ok(Some(0)));
    }
}
