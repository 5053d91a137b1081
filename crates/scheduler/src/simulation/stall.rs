//! The report of the watchdog.

use std::time::Duration;

use cenote_base::{Random, Resources};
use tokio::time::Instant;

use super::{SimulatedThreads, for_seeds};
use crate::{SchedulerOptions, Value, WorkOptions};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_stall_is_reported_with_what_runs_and_what_waits_for_what() {
    for_seeds(1, 1, |seed| async move {
        let named = [("licence".to_owned(), 1)].into();
        let options = SchedulerOptions { cpu_cores: 2.0, named, ..SchedulerOptions::default() };
        let mut threads = SimulatedThreads::new(options);
        let scheduler = threads.scheduler.clone();
        let licence = Resources::cpu(1.0).with_named("licence", 1);
        let submit = |name: &str, resources: Resources| {
            let options = WorkOptions::new(name).resources(resources);
            scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))).unwrap()
        };
        let stall = || scheduler.driver().look(|core| core.stall(Instant::now(), LIMIT));
        let _held = (submit("decode", licence.clone()), submit("embed", licence));
        let mut random = Random::new(seed);
        assert!(threads.begin(&mut random, |_| LIMIT * 10).await);
        tokio::time::advance(LIMIT / 2).await;
        assert_eq!(stall(), None, "it is early to speak of a stall");
        tokio::time::advance(LIMIT).await;
        let report = stall().unwrap();
        assert!(report.starts_with("nothing has begun or ended for 45s"), "{report}");
        for line in [
            "  `decode` has run for 45.0s",
            "  1 `embed` of job `default` wait for 1 `licence` (0 free), the oldest for 45.0s",
        ] {
            assert!(report.lines().any(|found| found == line), "{report}");
        }
        while threads.begin(&mut random, |_| LIMIT * 10).await || threads.advance().await {}
        tokio::time::advance(LIMIT * 2).await;
        assert_eq!(stall(), None, "nothing waits");
    });
}
