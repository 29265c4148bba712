//! Two sources in memory under one root. Both servers have the same handles, inode numbers and file systems.

use bytes::Bytes;
use efc_backend::*;
use efc_buffer::{Buffer, Sink};
use efc_model::{Client, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;

use crate::{OWN_FSID, Path, Several, Source, Sources, own_root};

const CHANGED: Time = Time { seconds: 7, nanos: 0 };

struct World {
    simulation: Simulation,
    nas: [Nas; 2],
    several: Several<Client>,
    sources: Sources<Client>,
}

fn source(number: u8, path: &str, nas: &Nas) -> Source<Client> {
    let properties = Properties { read_max: 1 << 20, write_max: 1 << 20, ignores_case: false };
    let attr = nas.attr("").unwrap();
    let client = nas.client(u32::from(number), None);
    let path = Path::new(path.as_bytes()).unwrap();
    Source::new((number, path), (nas.root(), attr), (properties, false), (u64::from(number), client))
}

fn world() -> World {
    let simulation = Simulation::new(1);
    let nas = [Nas::new(Options::default(), 1), Nas::new(Options::default(), 1)];
    let list = vec![source(1, "/one", &nas[0]), source(2, "/deep/er/two", &nas[1])];
    let several = Several::new(list, CHANGED, None);
    World { simulation, nas, sources: Sources::Several(several.clone()), several }
}

fn status<T>(reply: Reply<T>) -> Option<Status> {
    reply.err().and_then(|error| error.status())
}

fn root() -> Cred {
    Cred::root()
}

async fn walk(sources: &Sources<Client>, path: &str) -> Reply<Lookup> {
    let mut at = own_root();
    let mut found = None;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let next = sources.lookup(Call::of(&root()), &at, name.as_bytes()).await?;
        at = next.value.handle;
        found = Some(next);
    }
    Ok(found.expect("a path has a name"))
}

async fn names(sources: &Sources<Client>, dir: &FileHandle) -> Vec<String> {
    let page = sources.list(Call::of(&root()), dir, 0, [0; 8], 1 << 16).await.unwrap().value;
    assert!(page.eof);
    let mut names: Vec<String> =
        page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

#[test]
fn each_source_shows_at_its_path_and_own_directories_cannot_be_changed() {
    let world = world();
    world.nas[0].write_outside("file", 0, b"first");
    world.nas[1].write_outside("file", 0, b"second");
    let sources = &world.sources;
    world.simulation.run(async {
        assert_eq!(names(sources, &own_root()).await, ["deep", "one"]);
        let deep = walk(sources, "/deep/er").await.unwrap().value;
        assert_eq!(names(sources, &deep.handle).await, ["two"]);
        assert_eq!(deep.attr.unwrap().fsid, OWN_FSID);
        for (path, content) in [("/one/file", &b"first"[..]), ("/deep/er/two/file", b"second")] {
            let file = walk(sources, path).await.unwrap().value.handle;
            let sink = Sink::Buffer(Buffer::new(64).unwrap(), 0..64);
            let (payload, read) = sources.read(Call::of(&root()), &file, 0, sink).await;
            let count = read.unwrap().value.count as usize;
            assert_eq!(&payload.unwrap().into_buffer().unwrap().0[..count], content);
        }
        let (cred, attr) = (root(), SetAttr::default());
        let call = Call::of(&cred);
        assert_eq!(status(sources.mkdir(call, &own_root(), b"new", &attr).await), Some(Status::RoFs));
        assert_eq!(status(sources.rmdir(call, &own_root(), b"one").await), Some(Status::RoFs));
        assert_eq!(status(sources.setattr(call, &deep.handle, &attr).await), Some(Status::RoFs));
        assert_eq!(status(sources.lookup(call, &own_root(), b"none").await), Some(Status::NoEnt));
        let everybody = Cred { uid: 1000, gid: 1000, groups: [].into() };
        let asked = access::READ | access::LOOKUP | access::EXTEND;
        let granted = sources.access(Call::of(&everybody), &own_root(), asked).await.unwrap().value.0;
        assert_eq!(granted, access::READ | access::LOOKUP);
    });
}

#[test]
fn the_same_object_of_two_servers_is_two() {
    let world = world();
    world.nas.iter().for_each(|nas| nas.write_outside("file", 0, b"x"));
    let sources = &world.sources;
    world.simulation.run(async {
        let [first, second] = [walk(sources, "/one/file").await, walk(sources, "/deep/er/two/file").await];
        let (first, second) = (first.unwrap().value, second.unwrap().value);
        assert_ne!(first.handle, second.handle);
        let [one, two] = [first, second].map(|found| found.attr.unwrap());
        assert!(one.fileid == two.fileid && one.fsid != two.fsid, "{one:?} {two:?}");
        let [one, two] = [first, second].map(|found| sources.shared_name(&found.handle));
        assert!(one.1 == two.1 && one.0 != two.0, "blocks of the two must not be taken for each other's");
        let cred = root();
        let call = Call::of(&cred);
        let dirs = [walk(sources, "/one").await, walk(sources, "/deep/er/two").await];
        let [from, to] = dirs.map(|dir| dir.unwrap().value.handle);
        assert_eq!(status(sources.rename(call, (&from, b"file"), (&to, b"moved")).await), Some(Status::XDev));
        assert_eq!(status(sources.link(call, &first.handle, &to, b"link").await), Some(Status::XDev));
        assert!(!sources.is_one_storage(&from, &to) && sources.is_one_storage(&from, &first.handle));
        sources.rename(call, (&from, b"file"), (&from, b"moved")).await.unwrap();
        assert_eq!(world.nas.each_ref().map(|nas| nas.names("")), [["moved"], ["file"]]);
    });
}

#[test]
fn names_of_a_page_lead_where_looking_them_up_leads() {
    let world = world();
    world.nas[1].write_outside("a name", 0, b"x");
    let sources = &world.sources;
    world.simulation.run(async {
        let dir = walk(sources, "/deep/er/two").await.unwrap().value.handle;
        let page = sources.list(Call::of(&root()), &dir, 0, [0; 8], 1 << 16).await.unwrap().value;
        let listed = page.entries.iter().find(|entry| entry.name == b"a name").unwrap();
        let found = walk(sources, "/deep/er/two/a name").await.unwrap().value;
        assert_eq!((listed.handle, listed.attr), (Some(found.handle), found.attr));
        assert_eq!(page.dir_attr.unwrap().fsid, found.attr.unwrap().fsid);
    });
}

#[test]
fn a_silent_server_holds_up_nobody_else() {
    let world = world();
    world.nas[0].write_outside("file", 0, b"x");
    world.nas[1].write_outside("file", 0, b"x");
    let sources = &world.sources;
    let _silent = [Procedure::Getattr, Procedure::Lookup, Procedure::Fsstat].map(|call| world.nas[0].hold(call));
    world.simulation.run(async {
        assert_eq!(names(sources, &own_root()).await, ["deep", "one"]);
        walk(sources, "/deep/er/two/file").await.unwrap();
        let cred = root();
        let call = Call::of(&cred);
        let sizes = sources.fsstat(call, &own_root()).await.unwrap().value;
        let two = walk(sources, "/deep/er/two").await.unwrap().value.handle;
        let alone = sources.fsstat(call, &two).await.unwrap().value;
        assert_eq!(sizes.bytes_total, alone.bytes_total, "the silent one has never said anything");
        let (handle, attr) = sources.own_name(&own_root(), b"one").unwrap().unwrap();
        let silent = efc_tasks::time::in_time(sources.getattr(call, &handle), Some(std::time::Duration::from_secs(60)));
        assert!(silent.await.is_none() && attr.kind == FileType::Directory);
    });
}

#[test]
fn sources_come_and_go_and_a_handle_never_means_another() {
    let world = world();
    world.nas.iter().for_each(|nas| nas.write_outside("file", 0, b"x"));
    let sources = &world.sources;
    world.simulation.run(async {
        let cred = root();
        let call = Call::of(&cred);
        let file = walk(sources, "/one/file").await.unwrap().value.handle;
        let [one, two] = <[_; 2]>::try_from(world.several.sources()).ok().unwrap();
        // Taken away: its name has gone, and what is in use goes on.
        let (one, two) = ((*one).clone().shown_at(None), (*two).clone());
        let later = Time { seconds: 8, nanos: 0 };
        world.several.set(vec![one, two.clone()], later);
        assert_eq!(names(sources, &own_root()).await, ["deep"]);
        assert_eq!(status(walk(sources, "/one").await), Some(Status::NoEnt));
        assert_eq!(sources.getattr(call, &own_root()).await.unwrap().value.mtime, later);
        sources.getattr(call, &file).await.unwrap();
        // Given up, and another one in its place: the former handles lead nowhere.
        world.several.set(vec![two, source(3, "/one", &world.nas[1])], later);
        assert_eq!(status(sources.getattr(call, &file).await), Some(Status::Stale));
        assert_ne!(walk(sources, "/one/file").await.unwrap().value.handle, file);
        assert_eq!(names(sources, &own_root()).await, ["deep", "one"]);
    });
}

#[test]
fn a_source_that_is_read_only_is_so_for_everybody() {
    let world = world();
    world.nas[0].write_outside("file", 0, b"x");
    let sources = &world.sources;
    world.simulation.run(async {
        let cred = root();
        let call = Call::of(&cred);
        let file = walk(sources, "/one/file").await.unwrap().value.handle;
        let dir = walk(sources, "/one").await.unwrap().value.handle;
        let all = world.several.sources().into_iter();
        let all = all.map(|source| (*source).clone().with_read_only(true)).collect();
        world.several.set(all, CHANGED);
        assert!(sources.is_read_only(&file) && sources.is_read_only(&own_root()));
        assert_eq!(status(sources.remove(call, &dir, b"file").await), Some(Status::RoFs));
        let how = CreateHow::Unchecked(SetAttr::default());
        assert_eq!(status(sources.create(call, &dir, b"new", how).await), Some(Status::RoFs));
        let asked = access::READ | access::MODIFY;
        assert_eq!(sources.access(call, &file, asked).await.unwrap().value.0, access::READ);
        // What an application was told is written gets to the server all the same.
        sources.write(call, &file, 0, Bytes::from_static(b"y"), Stable::File).await.unwrap();
    });
}

#[test]
fn one_source_is_that_source() {
    let simulation = Simulation::new(1);
    let nas = Nas::new(Options::default(), 1);
    nas.write_outside("file", 0, b"x");
    let sources = Sources::One(nas.client(1, None));
    simulation.run(async {
        let cred = root();
        let call = Call::of(&cred);
        let found = sources.lookup(call, &nas.root(), b"file").await.unwrap().value;
        assert_eq!((found.handle, found.attr), (nas.find("file").unwrap(), nas.attr("file")));
        assert!(sources.own_name(&nas.root(), b"file").is_none() && sources.properties(&found.handle).is_none());
        assert_eq!(sources.shared_name(&found.handle), (0, found.handle));
    });
}

#[test]
fn paths_that_meet_are_known() {
    let path = |text: &str| Path::new(text.as_bytes());
    for none in ["", "/", "//", "/a/../b", "/.", "/a\0"] {
        assert_eq!(path(none), None, "{none:?}");
    }
    let [a, b, c] = ["/a", "/a/b c/", "ab"].map(|text| path(text).unwrap());
    assert!(a.overlaps(&b) && b.overlaps(&a) && a.overlaps(&a) && !a.overlaps(&c));
    assert_eq!((b.to_string(), c.to_string()), ("/a/b c".into(), "/ab".into()));
}
