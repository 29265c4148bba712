use std::sync::Mutex;

use efc_backend::Time;
use efc_buffer::{BudgetLimits, LARGE};
use efc_tasks::simulation::Simulation;
use efc_tasks::spawn_local;

use super::super::{Answer, BLOCK_BYTES, Turn};
use super::*;
use crate::testing::handle;
use crate::version::Version;

fn key(index: u64) -> BlockKey {
    let time = Time { seconds: 1, nanos: 0 };
    BlockKey { storage: 0, file: handle(b"file"), version: Version { mtime: time, ctime: time, size: 1 << 40 }, index }
}

/// What happened, in its order.
type Story = Arc<Mutex<Vec<String>>>;

/// A level that has blocks of one number, or none, and tells what it is asked.
#[derive(Debug)]
struct Told {
    name: &'static str,
    has: Option<u64>,
    serves: bool,
    takes: bool,
    /// How long it is not the turn of a block.
    busy: Duration,
    story: Story,
}

impl Told {
    fn level(name: &'static str, has: Option<u64>, story: &Story) -> Arc<dyn Level> {
        Arc::new(Told::new(name, has, story))
    }

    fn new(name: &'static str, has: Option<u64>, story: &Story) -> Told {
        Told { name, has, serves: true, takes: true, busy: Duration::ZERO, story: story.clone() }
    }
}

impl Level for Told {
    fn name(&self) -> &'static str {
        self.name
    }

    fn serves(&self) -> bool {
        self.serves
    }

    fn get(&self, key: BlockKey, room: Buffer) -> Answer<'_> {
        Box::pin(async move {
            tell(&self.story, format!("{} asked", self.name));
            if self.has == Some(key.index) {
                return Lookup::Hit { block: Block::new(room, BLOCK_BYTES), fill: None };
            }
            let place = || Place { name: self.name, busy: self.busy, story: self.story.clone(), is_filled: false };
            let fill = self.takes.then(|| Box::new(place()) as Box<dyn Fill>);
            Lookup::Miss(Miss { room: Some(room), fill })
        })
    }
}

#[derive(Debug)]
struct Place {
    name: &'static str,
    busy: Duration,
    story: Story,
    is_filled: bool,
}

impl Fill for Place {
    fn turn(&mut self) -> Turn<'_> {
        Box::pin(efc_tasks::time::sleep(self.busy))
    }

    fn fill(mut self: Box<Self>, _: &Arc<Block>) {
        self.is_filled = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        tell(&self.story, format!("{} {}", self.name, if self.is_filled { "filled" } else { "given up" }));
    }
}

fn tell(story: &Story, what: String) {
    story.lock().unwrap().push(what);
}

fn told(story: &Story) -> String {
    std::mem::take(&mut *story.lock().unwrap()).join(", ")
}

fn whole(room: Buffer, is_settled: bool) -> Result<Fetched, Absent> {
    Ok(Fetched { block: Block::new(room, BLOCK_BYTES), is_settled })
}

async fn get(chain: &Arc<Chain>, index: u64) -> Option<Arc<Block>> {
    chain.get(key(index), async |room| whole(room, true)).await.ok()
}

fn limited(blocks: usize) -> Budget {
    Budget::new(BudgetLimits { ahead_bytes: (blocks * LARGE) as u64, ..BudgetLimits::NONE })
}

fn amount(chain: &Chain, name: &str) -> u64 {
    let given = chain.given();
    match name {
        "memory" => given.memory.blocks,
        "backend" => given.backend.blocks,
        level => given.level(level).blocks,
    }
}

#[test]
fn levels_are_asked_in_their_order_and_those_above_the_one_that_has_it_are_filled() {
    let (simulation, story) = (Simulation::new(1), Story::default());
    let absent = Told { serves: false, ..Told::new("absent", Some(7), &story) };
    let levels = vec![
        Arc::new(absent) as Arc<dyn Level>,
        Told::level("near", None, &story),
        Told::level("far", Some(7), &story),
        Told::level("farthest", None, &story),
    ];
    let chain = Chain::new(levels, Budget::default()).expect("levels");
    simulation.run(async {
        assert!(get(&chain, 7).await.is_some());
        assert_eq!(told(&story), "near asked, far asked, near filled");
        assert!(get(&chain, 8).await.is_some());
        let asked = "near asked, far asked, farthest asked";
        assert_eq!(told(&story), format!("{asked}, near filled, far filled, farthest filled"));
        assert!(get(&chain, 8).await.is_some());
        assert_eq!(told(&story), "", "it was just read");
        assert!(chain.get(key(9), async |_| Err(Absent::Unshared)).await.is_err());
        assert_eq!(told(&story), format!("{asked}, near given up, far given up, farthest given up"));
        let unsettled = chain.get(key(9), async |room| whole(room, false)).await;
        assert!(unsettled.is_ok(), "for whoever has asked the backend");
        assert_eq!(told(&story), format!("{asked}, near given up, far given up, farthest given up"));
    });
    assert_eq!(["memory", "backend", "far", "near"].map(|name| amount(&chain, name)), [1, 2, 1, 0]);
}

#[test]
fn where_no_level_serves_there_is_none() {
    let story = Story::default();
    let absent = Told { serves: false, ..Told::new("absent", None, &story) };
    assert!(!Chain::new(vec![Arc::new(absent)], Budget::default()).expect("a level").serves());
    assert!(Chain::new(Vec::new(), Budget::default()).is_none());
}

#[test]
fn whoever_waits_for_a_block_that_is_not_for_all_asks_the_backend_himself() {
    let (simulation, story) = (Simulation::new(2), Story::default());
    let chain = Chain::new(vec![Told::level("near", None, &story)], Budget::default()).expect("a level");
    simulation.run(async {
        for is_settled in [false, true] {
            let slow = async move |room| {
                efc_tasks::time::sleep(Duration::from_millis(1)).await;
                whole(room, is_settled)
            };
            let first = chain.clone();
            let first = spawn_local(async move { first.get(key(1), slow).await.is_ok() });
            let second = chain.clone();
            let second = spawn_local(async move {
                efc_tasks::time::sleep(Duration::from_micros(1)).await;
                second.get(key(1), async |_| unreachable!("another has begun")).await.is_ok()
            });
            assert_eq!((first.await, second.await), (true, is_settled));
        }
    });
}

#[test]
fn who_reads_first_waits_until_levels_take_the_block_but_no_longer_than_for_the_backend() {
    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }
    for (busy, waits) in [(0, 4), (3, 7), (9, 8)] {
        let (simulation, story) = (Simulation::new(6), Story::default());
        let level = |name| Told { busy: ms(busy), ..Told::new(name, None, &story) };
        let chain = Chain::new(vec![Arc::new(level("near"))], Budget::default()).expect("a level");
        simulation.run(async {
            let begun = efc_tasks::time::now();
            let slow = async |room| {
                efc_tasks::time::sleep(ms(4)).await;
                whole(room, true)
            };
            let first = chain.clone();
            let first =
                spawn_local(async move { first.get(key(1), slow).await.map(|_| efc_tasks::time::since(begun)) });
            let second = chain.clone();
            let second = spawn_local(async move {
                efc_tasks::time::sleep(Duration::from_micros(1)).await;
                second
                    .get(key(1), async |_| unreachable!("another has begun"))
                    .await
                    .map(|_| efc_tasks::time::since(begun))
            });
            let near = |waited: Duration, expected| waited >= ms(expected) && waited < ms(expected + 1);
            assert!(near(first.await.expect("the block"), waits), "{busy} ms");
            assert!(near(second.await.expect("the block"), 4), "others do not wait: {busy} ms");
            assert_eq!(told(&story), "near asked, near filled");
        });
    }
}

#[test]
fn blocks_that_were_just_read_have_an_end_of_memory_and_of_time() {
    let (simulation, story) = (Simulation::new(3), Story::default());
    let chain = Chain::new(vec![Told::level("near", None, &story)], Budget::default()).expect("a level");
    let most = (RECENT_BYTES_MAX / LARGE) as u64;
    let recent = |chain: &Arc<Chain>| {
        let blocks = chain.blocks();
        assert_eq!(blocks.recent.len(), blocks.order.len());
        (blocks.recent.len(), blocks.recent_bytes)
    };
    simulation.run(async {
        for index in 0..most + 10 {
            assert!(get(&chain, index).await.is_some());
        }
        assert_eq!(recent(&chain), (most as usize, most as usize * LARGE));
        get(&chain, 0).await;
        assert_eq!(amount(&chain, "memory"), 0, "the first have gone");
        get(&chain, most + 9).await;
        assert_eq!(amount(&chain, "memory"), 1);
        efc_tasks::time::sleep(3 * RECENT_TIME_MAX).await;
        assert_eq!(recent(&chain), (0, 0));
        get(&chain, 1).await;
        efc_tasks::time::sleep(3 * RECENT_TIME_MAX).await;
        assert_eq!(recent(&chain), (0, 0), "another time, too");
    });
}

#[test]
fn a_block_counts_for_as_much_memory_as_it_takes() {
    let (simulation, story) = (Simulation::new(5), Story::default());
    let chain = Chain::new(vec![Told::level("near", None, &story)], limited(2)).expect("a level");
    let length = 100 << 10;
    simulation.run(async {
        let mut held = Vec::new();
        for name in [b"1", b"2", b"3"] {
            let version = Version { size: length as u64, ..key(0).version };
            let key = BlockKey { storage: 0, file: handle(name), version, index: 0 };
            let fetched = async move |room| Ok(Fetched { block: Block::new(room, length), is_settled: true });
            held.extend(chain.get(key, fetched).await);
        }
        assert!(held.iter().map(|block| block.room()).sum::<usize>() <= 2 * LARGE);
    });
}

#[test]
fn without_memory_nothing_is_read_by_blocks_and_who_reads_waits_for_none() {
    let (simulation, story) = (Simulation::new(4), Story::default());
    let chain = Chain::new(vec![Told::level("near", None, &story)], limited(2)).expect("a level");
    simulation.run(async {
        let held = [get(&chain, 0).await, get(&chain, 1).await];
        told(&story);
        assert!(held.iter().all(Option::is_some));
        assert!(get(&chain, 2).await.is_none());
        assert_eq!(told(&story), "");
        drop(held);
        assert!(get(&chain, 2).await.is_some());
        assert!(get(&chain, 3).await.is_some() && get(&chain, 4).await.is_some(), "what was just read makes room");
    });
}

/// What comes of filling one of three levels, of which the middle one has block 7, with a block.
fn warm(level: &str, index: u64) -> (Result<Warmed, Absent>, String) {
    let (simulation, story) = (Simulation::new(7), Story::default());
    let levels = [("near", None), ("middle", Some(7)), ("far", None)].map(|(name, has)| Told::level(name, has, &story));
    let chain = Chain::new(levels.to_vec(), Budget::default()).expect("levels");
    let level = chain.level(level).expect("a level of this name");
    let warmed = simulation.run(chain.warm(key(index), level, async move |room| whole(room, index != 9)));
    (warmed, told(&story))
}

#[test]
fn one_level_is_filled_and_no_other_from_whoever_has_the_block() {
    let given = |story: &str| (Ok(Warmed::Given), story.to_string());
    assert_eq!(warm("near", 7), given("near asked, middle asked, near filled"));
    assert_eq!(warm("far", 7), given("near asked, near given up, middle asked, far asked, far filled"));
    let there = "near asked, near given up, middle asked";
    assert_eq!(warm("middle", 7), (Ok(Warmed::WasThere), there.into()));
    let asked = "near asked, near given up, middle asked, far asked, far given up, middle filled";
    assert_eq!(warm("middle", 8), given(asked), "from the backend");
    let (unsettled, story) = warm("near", 9);
    assert_eq!(unsettled, Ok(Warmed::Refused), "nobody may be given it");
    assert!(story.ends_with("near given up"), "{story}");
}

#[test]
fn what_was_just_read_is_offered_to_the_level_that_is_to_be_filled() {
    let (simulation, story) = (Simulation::new(8), Story::default());
    let chain =
        Chain::new(vec![Told::level("near", Some(7), &story), Told::level("far", None, &story)], Budget::default());
    let chain = chain.expect("levels");
    simulation.run(async {
        assert!(get(&chain, 7).await.is_some());
        told(&story);
        for (level, outcome, what) in [(0, Warmed::WasThere, "near asked"), (1, Warmed::Given, "far asked, far filled")]
        {
            let warmed = chain.warm(key(7), level, async |_| unreachable!("it was just read")).await;
            assert_eq!((warmed, told(&story)), (Ok(outcome), what.into()));
        }
    });
    assert_eq!(
        ["memory", "near", "far"].map(|name| amount(&chain, name)),
        [2, 1, 0],
        "who is only asked gives nothing"
    );
}

#[test]
fn nothing_is_fetched_for_a_level_that_takes_nothing() {
    for (serves, takes, asked) in [(false, true, ""), (true, false, "near asked, far asked, far given up")] {
        let (simulation, story) = (Simulation::new(9), Story::default());
        let near = Told { serves, takes, ..Told::new("near", None, &story) };
        let chain = Chain::new(vec![Arc::new(near), Told::level("far", None, &story)], Budget::default());
        let chain = chain.expect("levels");
        simulation.run(async {
            let warmed = chain.warm(key(1), 0, async |_| unreachable!("it would be of no use")).await;
            assert!(matches!(warmed, Ok(Warmed::Refused) | Err(Absent::Unshared)), "{warmed:?}");
            assert_eq!(told(&story), asked);
            assert!(get(&chain, 1).await.is_some(), "readers get it all the same");
        });
    }
}

#[test]
fn a_reader_and_one_who_fills_a_level_fetch_once_and_the_readers_levels_are_filled() {
    let warmed = "near asked, near given up, far asked, far filled";
    let read = "near asked, far asked, near filled, far filled";
    // Who comes second waits for the first.
    for (reads_first, joined) in
        [(false, format!("{warmed}, near asked, near filled")), (true, format!("{read}, far asked, far filled"))]
    {
        let (simulation, story) = (Simulation::new(10), Story::default());
        let levels = vec![Told::level("near", None, &story), Told::level("far", None, &story)];
        let chain = Chain::new(levels, Budget::default()).expect("levels");
        let slow = async |room| {
            efc_tasks::time::sleep(Duration::from_millis(1)).await;
            whole(room, true)
        };
        let after = move |is_first: bool| {
            efc_tasks::time::sleep(if is_first { Duration::ZERO } else { Duration::from_micros(1) })
        };
        simulation.run(async {
            let (reading, warming) = (chain.clone(), chain.clone());
            let reader = spawn_local(async move {
                after(reads_first).await;
                reading.get(key(1), slow).await.is_ok()
            });
            let warmer = spawn_local(async move {
                after(!reads_first).await;
                warming.warm(key(1), 1, slow).await
            });
            assert_eq!((reader.await, warmer.await), (true, Ok(Warmed::Given)));
        });
        assert_eq!(amount(&chain, "backend"), 1);
        assert_eq!(told(&story), joined);
    }
}

#[test]
fn a_fetch_for_a_level_goes_on_without_the_one_who_began_it() {
    let (simulation, story) = (Simulation::new(11), Story::default());
    let chain = Chain::new(vec![Told::level("near", None, &story)], Budget::default()).expect("a level");
    simulation.run(async {
        let slow = async |room| {
            efc_tasks::time::sleep(Duration::from_millis(2)).await;
            whole(room, true)
        };
        let begun = chain.warm(key(1), 0, slow);
        assert!(efc_tasks::time::in_time(begun, Some(Duration::from_millis(1))).await.is_none());
        assert!(get(&chain, 1).await.is_some(), "whoever waits for it is not left");
        efc_tasks::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(told(&story), "near asked, near filled");
    });
    assert_eq!(amount(&chain, "backend"), 1);
}

#[test]
fn a_block_that_was_fetched_for_one_level_is_not_kept_from_the_others() {
    let (simulation, story) = (Simulation::new(12), Story::default());
    let levels = vec![Told::level("near", None, &story), Told::level("far", None, &story)];
    let chain = Chain::new(levels, Budget::default()).expect("levels");
    simulation.run(async {
        let warmed = chain.warm(key(1), 1, async |room| whole(room, true)).await;
        assert_eq!((warmed, told(&story).contains("near filled")), (Ok(Warmed::Given), false));
        assert!(get(&chain, 1).await.is_some());
        assert_eq!(told(&story), "near asked, far asked, near filled, far filled", "whoever reads it next");
    });
}
