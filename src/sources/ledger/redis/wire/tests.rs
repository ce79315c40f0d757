use super::*;

const WRITTEN: i64 = 1_700_000_000_500;
const READER: Reader = Reader {
    retention: Duration::from_secs(3630),
    leeway: Duration::from_secs(30),
    lead: Duration::from_secs(2),
    now: Timestamp::from_millis(WRITTEN + 1),
    behind: Duration::ZERO,
    seen_at: Timestamp::from_millis(0),
    set_at: Timestamp::from_millis(0),
    as_written: false,
};

#[track_caller]
fn check(entry: &str, expected: Result<&str, &'static str>) {
    check_at(1_700_000_000_500, entry, expected);
}

#[track_caller]
fn check_at(millis: u64, entry: &str, expected: Result<&str, &'static str>) {
    let position = Position { millis, sequence: 0 };
    let fields = entry.split(' ').filter_map(|field| field.split_once('='));
    let read = Decoder::default().revocation(position, fields, READER).map(|r| {
        let keys = Keys::new("");
        format!(
            "{} {} {}",
            keys.target(&r.target),
            value(r.target.kind, r.watermark, r.origin),
            r.expires_at.as_millis()
        )
    });
    assert_eq!(read.as_deref(), expected.as_ref().map(|text| *text), "{entry}");
}

#[test]
fn entries_are_read_leniently_where_that_can_only_revoke_more() {
    let later = WRITTEN + 3_600_000;
    for (entry, expected) in [
        (
            "issuer=main kind=token id=j at=* expires=1700000600000 origin=signed_out reason=bye",
            "{r}:main:token:j * signed_out 1700000600000".to_owned(),
        ),
        ("issuer=main kind=token id=j expires=1700000600", "{r}:main:token:j * revoked 1700000600000".to_owned()),
        ("issuer=main kind=session id=s", format!("{{r}}:main:session:s * revoked {later}")),
        ("issuer=main kind=user id=u", format!("{{r}}:main:user:u {} revoked {}", WRITTEN + 2_000, later + 2_000)),
        (
            "issuer=main kind=user id=u at=1700000000",
            format!("{{r}}:main:user:u 1700000000999 revoked {}", later + 499),
        ),
        ("issuer=main kind=token id=j at=yesterday", format!("{{r}}:main:token:j * revoked {later}")),
        ("issuer=main kind=user id=u at=-1", format!("{{r}}:main:user:u * revoked {later}")),
        ("issuer=main kind=token id=j at=1", format!("{{r}}:main:token:j * revoked {later}")),
        ("issuer=main kind=key id=k", format!("{{r}}:main:key:k * revoked {later}")),
        (
            "issuer=main kind=user id=u at=1700000000.25",
            format!("{{r}}:main:user:u 1700000000999 revoked {}", later + 499),
        ),
        (
            "issuer=main kind=user id=u at=1700009999123 expires=soon",
            "{r}:main:user:u 1700009999123 revoked 1700013599123".to_owned(),
        ),
        ("issuer=main kind=issuer", format!("{{r}}:main:issuer:main {} revoked {}", WRITTEN + 30_000, later + 30_000)),
        (
            "issuer=main kind=registration id=j expires=1700000600",
            "{r}:main:registration:j * registered 1700000600000".to_owned(),
        ),
        ("issuer=unheard-of kind=key id=k at=*", format!("{{r}}:unheard-of:key:k * revoked {later}")),
        (
            "origin=who issuer=main id=c kind=client new=field",
            format!("{{r}}:main:client:c {} revoked {}", WRITTEN + 30_000, later + 30_000),
        ),
        // An early `expires` of another writer does not shorten the retention here.
        ("issuer=main kind=session id=s expires=1700000004000", format!("{{r}}:main:session:s * revoked {later}")),
        (
            "issuer=main kind=user id=u at=1700000000500 expires=1700000004000",
            format!("{{r}}:main:user:u {WRITTEN} revoked {later}"),
        ),
        (
            "issuer=main kind=user id=u at=1700000000500 expires=1800000000000",
            format!("{{r}}:main:user:u {WRITTEN} revoked 1800000000000"),
        ),
    ] {
        check(entry, Ok(&expected));
    }
}

#[test]
fn an_id_of_the_future_is_an_entry_of_now() {
    // The leeway is for a store's clock that was set since it was read.
    for millis in [1_700_000_030_501, 1_700_000_030_502, 1 << 62, 1 << 63, u64::MAX] {
        let until = WRITTEN + 30_001 + 3_600_000;
        check_at(millis, "issuer=main kind=session id=s", Ok(&format!("{{r}}:main:session:s * revoked {until}")));
        let at = WRITTEN + 32_001;
        let user = format!("{{r}}:main:user:u {at} revoked {}", at + 3_600_000);
        check_at(millis, "issuer=main kind=user id=u", Ok(&user));
    }
}

/// The store's clock was an hour behind, and was corrected a minute ago.
#[test]
fn an_entry_from_before_the_clock_was_set_is_kept_like_one_of_that_time() {
    let (set_at, now) = (Timestamp::from_millis(WRITTEN + 3_600_000), Timestamp::from_millis(WRITTEN + 3_660_000));
    let reader = Reader { now, set_at, ..READER };
    let read = |entry: &str| {
        let fields = entry.split(' ').filter_map(|field| field.split_once('='));
        let position = Position { millis: u64::try_from(WRITTEN).unwrap(), sequence: 0 };
        let read = Decoder::default().revocation(position, fields, reader).unwrap();
        (read.watermark, read.expires_at.as_millis() - WRITTEN)
    };
    assert_eq!(read("issuer=main kind=session id=s"), (Watermark::FOREVER, 7_200_000));
    let end = WRITTEN + 600_000;
    assert_eq!(read(&format!("issuer=main kind=token id=j expires={end}")), (Watermark::FOREVER, 600_000));
    let (at, _) = read("issuer=main kind=user id=u");
    assert_eq!(at.instant().as_millis(), WRITTEN + 3_602_000, "it may have been written then");
    let (at, _) = read(&format!("issuer=main kind=user id=u at={WRITTEN}"));
    assert_eq!(at.instant().as_millis(), WRITTEN, "what it says itself is not widened");
}

#[test]
fn an_entry_without_an_instant_covers_by_the_later_clock() {
    let read = |reader: Reader, kind: &str| {
        let fields = [("issuer", "main"), ("kind", kind), ("id", "u")];
        let position = Position { millis: u64::try_from(WRITTEN).unwrap(), sequence: 0 };
        let read = Decoder::default().revocation(position, fields.into_iter(), reader).unwrap();
        read.watermark.instant().as_millis() - WRITTEN
    };
    let behind = Reader { behind: Duration::from_secs(25), ..READER };
    assert_eq!((read(behind, "user"), read(behind, "client")), (27_000, 55_000), "the store's clock is behind");
    let live = Reader { seen_at: Timestamp::from_millis(WRITTEN + 3_600_000), ..READER };
    assert_eq!((read(live, "user"), read(live, "client")), (3_602_000, 3_630_000), "far behind");
}

#[test]
fn an_entry_and_its_copy_in_another_log_are_read_alike() {
    let read_at = |entry: &str, millis: i64, now: i64| {
        let fields = entry.split(' ').filter_map(|field| field.split_once('='));
        let position = Position { millis: u64::try_from(millis).unwrap(), sequence: 0 };
        let reader = Reader { as_written: true, now: Timestamp::from_millis(now), ..READER };
        let read = Decoder::default().revocation(position, fields, reader).unwrap();
        (read.watermark, read.expires_at.as_millis(), read.note.map(|note| note.since.as_millis()))
    };
    let read = |entry: &str, millis: i64| read_at(entry, millis, millis + 1);
    let end = WRITTEN + 60_000;
    for entry in ["kind=session id=s at=*", &format!("kind=user id=u at={WRITTEN}"), "kind=token id=t"] {
        let entry = format!("issuer=main {entry} expires={end}");
        let (watermark, expires, since) = read(&entry, WRITTEN);
        assert_eq!((expires, since), (end, Some(WRITTEN).filter(|_| !entry.contains("token"))), "{entry}");
        // The clock of the other store is an hour behind, or ahead: no entry was written after its id.
        let copy = since.map_or(entry.clone(), |since| format!("{entry} since={since}"));
        for id in [WRITTEN - 3_600_000, WRITTEN + 3_600_000] {
            assert_eq!(read(&copy, id), (watermark, expires, since.map(|since| since.min(id))), "{entry}");
        }
    }
    assert_eq!(read("issuer=main kind=session id=s", WRITTEN).1, WRITTEN + 3_600_000, "none is written");
    assert_eq!(
        read("issuer=main kind=user id=u", WRITTEN).0.instant().as_millis(),
        WRITTEN + 2_000,
        "the id and the lead"
    );
    // An id of the future stays one: it must not be read as another time whenever it is read. One beyond all need does not.
    let ahead = |millis: i64| read_at("issuer=main kind=session id=s since=9999999999999", millis, WRITTEN).2;
    assert_eq!(ahead(WRITTEN + 3_600_000), Some(WRITTEN + 3_600_000));
    assert_eq!(ahead(i64::MAX), Some(WRITTEN + 3_630_000), "the retention from now on");
}

#[test]
fn an_unreadable_entry_names_its_field() {
    for (entry, field) in [
        ("kind=token id=j", "issuer"),
        ("issuer=MAIN kind=token id=j", "issuer"),
        ("issuer=main id=j", "kind"),
        ("issuer=main kind=tokens id=j", "kind"),
        ("issuer=main kind=token", "id"),
        ("issuer=main kind=registration id=j", "expires"),
        ("issuer=main kind=registration id=j expires=soon", "expires"),
        ("issuer=main kind=registration id=j at=yesterday expires=1700000600", "at"),
    ] {
        check(entry, Err(field));
    }
}

#[test]
fn unusual_ids_of_other_writers_are_hashed_alike() {
    let mut decoder = Decoder::default();
    let fields = [("issuer", "main"), ("kind", "user"), ("id", "a b")];
    let read = decoder.revocation(Position::default(), fields.into_iter(), READER).unwrap();
    assert_eq!(read.target.id, TargetId::new("a b"));
}

#[test]
fn an_entry_is_read_back_as_it_was_written() {
    let issuer = IssuerName::parse("main").unwrap();
    let since = Timestamp::from_millis(WRITTEN - 1);
    for (watermark, note) in [
        (Watermark::FOREVER, None),
        (Watermark::at(Timestamp::from_millis(WRITTEN)), Note::new(since, "", "lost phone")),
        (Watermark::FOREVER, Note::new(since, "operator", "lost phone")),
    ] {
        let written = Revocation {
            target: Target::new(issuer.clone(), Kind::User, TargetId::new("u")),
            watermark,
            expires_at: Timestamp::from_millis(WRITTEN + 1),
            origin: Origin::SignedOut,
            note,
        };
        let fields = fields(&written);
        let pairs = fields.iter().map(|(name, value)| (*name, value.as_str()));
        let position = Position { millis: 1_700_000_000_500, sequence: 0 };
        let here = Reader { retention: Duration::ZERO, leeway: Duration::ZERO, ..READER };
        assert_eq!(Decoder::default().revocation(position, pairs, here), Ok(written));
    }
}

#[test]
fn values_are_read_as_they_are_written() {
    assert_eq!(parse_value("* signed_out"), Some((Watermark::FOREVER, Origin::SignedOut)));
    assert_eq!(
        parse_value("1700000000500 revoked"),
        Some((Watermark::at(Timestamp::from_millis(WRITTEN)), Origin::Revoked))
    );
    assert_eq!(parse_value("1700000000500"), Some((Watermark::at(Timestamp::from_millis(WRITTEN)), Origin::Revoked)));
    for odd in ["", "x revoked", "-5 revoked", "1", "0 signed_out"] {
        assert_eq!(parse_value(odd), None, "{odd:?}");
    }
}
