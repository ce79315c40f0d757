use super::*;

fn source() -> StatusListSource {
    let settings = StatusListSettings {
        refresh: Duration::from_secs(60),
        timeout: Duration::from_secs(5),
        max_bytes: 1 << 20,
        max_lists: 64,
        insecure: false,
        authorities: None,
    };
    StatusListSource::new(IssuerName::parse("main").unwrap(), settings, Arc::default()).unwrap()
}

fn uri(of: &str, number: u32) -> Arc<str> {
    format!("https://idp.test/{of}/{number}").into()
}

fn ends(source: &StatusListSource, uri: &Arc<str>, is_loaded: bool) {
    let stored = Taken::Stored { ttl: None, expires_at: None };
    source.settle(uri, if is_loaded { stored } else { Taken::Rejected("no answer".to_owned()) });
}

/// Makes every list due, in the order in which they would have been.
fn let_time_pass(source: &StatusListSource) {
    let mut schedule = source.schedule();
    let mut entries: Vec<_> = schedule.values_mut().collect();
    entries.sort_by_key(|entry| entry.due);
    let now = Instant::now();
    for (place, entry) in (0..).zip(entries) {
        entry.due = now - Duration::from_millis(1000 - place);
    }
}

#[test]
fn lists_that_do_not_answer_leave_the_others_their_requests() {
    let (source, all) = (source(), |_: &str| true);
    let [good, dead] =
        [("good", 6), ("dead", 50)].map(|(name, count)| (0..count).map(|n| uri(name, n)).collect::<Vec<_>>());
    for uri in good.iter().chain(&dead) {
        source.want(uri);
    }
    // Each is tried; new ones never have every request.
    loop {
        let (due, _) = source.take_due(all);
        assert!(due.len() < MAX_FETCHES, "{due:?}");
        if due.is_empty() {
            break;
        }
        for uri in &due {
            ends(&source, uri, uri.contains("good"));
        }
    }
    assert!(dead.iter().all(|uri| source.schedule()[uri].standing == Standing::NeverLoaded));
    // From now on one request hangs for ever; the good ones have the others in turn.
    let mut fetched = HashMap::<Arc<str>, u32>::new();
    for _ in 0..20 {
        let_time_pass(&source);
        for uri in &dead {
            assert!(source.ask(uri, true).is_some());
        }
        for uri in source.take_due(all).0 {
            *fetched.entry(uri.clone()).or_default() += 1;
            if uri.contains("good") {
                ends(&source, &uri, true);
            }
        }
    }
    assert_eq!(dead.iter().filter(|uri| fetched.contains_key(*uri)).count(), 1);
    assert!(good.iter().all(|uri| fetched.get(uri) == Some(&10)), "{fetched:?}");
}

#[test]
fn a_list_that_a_decision_waits_for_is_first_and_then_the_one_that_is_due_for_longest() {
    let (source, all) = (source(), |_: &str| true);
    let lists: Vec<_> = (0..8).map(|n| uri("new", n)).collect();
    for (ago, uri) in (1..).zip(&lists) {
        source.want(uri);
        let mut schedule = source.schedule();
        schedule.get_mut(uri).unwrap().due -= Duration::from_secs(ago);
    }
    assert!(source.ask(&lists[0], true).is_some());
    let (due, _) = source.take_due(all);
    assert_eq!(due, [&lists[0], &lists[7], &lists[6]].map(Clone::clone));
    // A failure holds the next fetch back, for longer than `refresh` if there never was one that succeeded.
    ends(&source, &lists[6], true);
    for _ in 0..20 {
        ends(&source, &lists[7], false);
        ends(&source, &lists[6], false);
    }
    assert!(source.ask(&lists[7], true).is_none());
    let left = |uri: &Arc<str>| source.schedule()[uri].due - Instant::now();
    assert!(left(&lists[7]) > Duration::from_secs(290) && left(&lists[6]) <= LONGEST_PAUSE);
}
