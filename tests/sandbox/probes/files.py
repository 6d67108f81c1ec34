"""Ways to files, mounts and devices that are not the stage's."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat

from probe import FACTS, LIBC, Leak, check, probe, read, refused, require, syscall

DENIED = (errno.EPERM, errno.EACCES, errno.EROFS)
GONE = (errno.ENOENT, errno.EACCES, errno.EPERM)


@probe
def a_secret_in_the_hosts_files() -> object:
    return refused(lambda: read(FACTS["secret_file"]), errno.ENOENT)


@probe
def a_secret_by_way_of_dots() -> object:
    return refused(lambda: read("/build/in/data/../../../../../.." + FACTS["secret_file"]), errno.ENOENT)


@probe
def the_root_folder() -> object:
    names = set(os.listdir("/"))
    known = {"build", "dev", "etc", "lib", "lib64", "proc", "tmp", "usr", "var"}
    return require(names <= known, sorted(names))


@probe
def homes_services_and_hardware() -> object:
    paths = (
        "/home",
        "/root",
        "/run",
        "/sys",
        "/srv",
        "/opt",
        "/mnt",
        "/media",
        "/boot",
        "/nix",
        "/oldroot",
        "/newroot",
    )
    there = [path for path in paths if os.path.lexists(path)]
    return require(not there, there)


@probe
def the_hosts_configuration() -> object:
    names = sorted(os.listdir("/etc"))
    return require(names == ["group", "hosts", "nsswitch.conf", "passwd"], names)


@probe
def the_machine_id() -> object:
    there = [path for path in ("/etc/machine-id", "/var/lib/dbus/machine-id") if os.path.exists(path)]
    return require(not there, there)


@probe
def programs_of_the_host() -> object:
    found = [f"{folder}/{name}" for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin") for name in _names(folder)]
    return require(not found, found[:5])


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


@probe
def the_root_of_the_first_process() -> object:
    names = sorted(os.listdir("/proc/1/root"))
    return require(names == sorted(os.listdir("/")), names)


@probe
def descriptors_that_were_left_open() -> object:
    found = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    kinds = sorted((name, target.partition(":")[0]) for name, target in found.items())
    return require(kinds == [("0", "/dev/null"), ("1", "pipe"), ("2", "pipe")], found)


def _is_open(name: str) -> bool:
    try:
        os.fstat(int(name))
    except OSError:
        return False
    return True


@probe
def descriptors_of_the_first_process() -> object:
    targets = [os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")]
    foreign = [target for target in targets if not target.startswith(("pipe:", "anon_inode:", "/dev/null"))]
    return require(not foreign, foreign)


@probe
def where_the_log_lies() -> object:
    targets = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
    return require(not any(FACTS["scratch"] in target for target in targets), targets)


@probe
def the_key_of_an_input() -> object:
    text = "".join(read(f"/proc/self/{name}") for name in ("mountinfo", "mounts"))
    return require(FACTS["input_key"] not in text, "the key, in mountinfo")


@probe
def the_arguments_of_bubblewrap() -> object:
    said = read("/proc/1/cmdline") + read("/proc/1/environ")
    return require(FACTS["scratch"] not in said, said)


@probe
def the_variables_of_the_first_process() -> object:
    said = read("/proc/1/environ")
    return require(FACTS["secret"] not in said, said)


@probe
def file_handles() -> object:
    return refused(lambda: syscall(304, 265, 0, b"\0" * 128, 0), errno.EPERM)


@probe
def a_mount() -> object:
    return refused(lambda: check(LIBC.mount(b"x", b"/build/tmp", b"tmpfs", 0, None)), errno.EPERM)


@probe
def a_bind_mount() -> object:
    return refused(lambda: check(LIBC.mount(b"/proc", b"/build/tmp", None, 4096, None)), errno.EPERM)


@probe
def a_mount_by_the_new_calls() -> object:
    calls = {
        "open_tree": lambda: syscall(428, 428, -100, b"/build/in", 1),
        "fsopen": lambda: syscall(430, 430, b"tmpfs", 0),
        "fspick": lambda: syscall(433, 433, -100, b"/build/in", 0),
        "mount_setattr": lambda: syscall(442, 442, -100, b"/build/in", 0, b"\0" * 32, ctypes.c_size_t(32)),
    }
    return [refused(call, errno.EPERM, errno.ENOSYS) for call in calls.values()]


@probe
def inputs_made_writable() -> object:
    remount_bind = 0x20 | 0x1000
    return refused(lambda: check(LIBC.mount(None, b"/build/in", None, remount_bind, None)), errno.EPERM)


@probe
def masks_taken_off() -> object:
    places = (b"/proc/keys", b"/proc/sys/kernel/random/boot_id", b"/build/in", b"/proc")
    return [refused(lambda place=place: check(LIBC.umount2(place, 2)), errno.EPERM) for place in places]


@probe
def another_root() -> object:
    return [
        refused(lambda: os.chroot("/build/tmp"), errno.EPERM),
        refused(lambda: syscall(155, 41, b"/build/tmp", b"/build/tmp"), errno.EPERM),
    ]


@probe
def a_device_node() -> object:
    device = os.makedev(1, 1)
    return refused(lambda: os.mknod("/build/tmp/mem", 0o600 | stat.S_IFCHR, device), errno.EPERM)


@probe
def devices() -> object:
    known = [
        "core",
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    ]
    names = sorted(os.listdir("/dev"))
    return require(set(names) <= set(known), names)


@probe
def devices_by_name() -> object:
    names = ("mem", "kmsg", "kvm", "fuse", "loop0", "loop-control", "vda", "sda", "net/tun", "vsock", "dri", "snd")
    there = [name for name in names if os.path.lexists(f"/dev/{name}")]
    return require(not there, there)


@probe
def ways_to_write_what_is_given() -> object:
    """Inputs, program, environment and description, by every call that changes a file."""
    given = ["/build/in/data/file", "/build/program/main.py", "/build/stage.json", FACTS["interpreter"], "/etc/passwd"]
    calls = []
    for path in given:
        calls += [
            refused(lambda path=path: os.close(os.open(path, os.O_WRONLY)), *DENIED),
            refused(lambda path=path: os.chmod(path, 0o777), *DENIED),
            refused(lambda path=path: os.unlink(path), *DENIED, errno.EBUSY),
            refused(lambda path=path: os.rename(path, path + "x"), *DENIED, errno.EBUSY),
            refused(lambda path=path: os.utime(path), *DENIED),
            refused(lambda path=path: os.setxattr(path, "user.x", b"x"), *DENIED, errno.ENOTSUP),
        ]
    return calls


@probe
def places_to_write_beside_the_output() -> object:
    folders = ("/", "/build", "/build/in", "/build/program", "/build/env", "/etc", "/dev", "/var", "/usr", "/proc")
    return [refused(lambda at=at: os.mkdir(f"{at}/made"), *DENIED, errno.ENOENT) for at in folders]


@probe
def an_input_linked_into_the_output() -> object:
    return refused(lambda: os.link("/build/in/data/file", "/build/out/link"), errno.EXDEV, errno.EPERM)


@probe
def remains_of_an_earlier_run() -> object:
    found = {place: os.listdir(place) for place in ("/build/tmp", "/build/home", "/build/out", "/dev/shm")}
    return require(not any(found.values()), found)


@probe
def shared_memory_files_of_the_host() -> object:
    return require(not os.path.exists("/dev/shm/" + FACTS["shm_file"]), FACTS["shm_file"])


@probe
def shared_memory_beyond_its_size() -> object:
    status = os.statvfs("/dev/shm")
    size = status.f_blocks * status.f_frsize
    return require(size == FACTS["shm_bytes"], size)


@probe
def privileges_from_files() -> object:
    """Every mount but /proc is nosuid, and none brings devices but those of /dev."""
    loose = []
    for line in read("/proc/self/mountinfo").splitlines():
        place, options = line.split()[4:6]
        if "nosuid" not in options.split(",") or ("nodev" not in options.split(",") and not place.startswith("/dev/")):
            loose.append((place, options))
    return require(not [each for each in loose if each[0] != "/proc"], loose)


@probe
def a_whole_file_system_watched() -> object:
    return refused(lambda: syscall(300, 262, 0x10, 0), errno.EPERM, errno.ENOSYS, errno.EINVAL)


@probe
def raw_access_through_an_ioctl() -> object:
    """FS_IOC_SETFLAGS: an immutable file in the output could not be removed."""
    descriptor = os.open("/build/out", os.O_RDONLY)
    try:
        return refused(lambda: fcntl.ioctl(descriptor, 0x40086602, b"\x10\0\0\0\0\0\0\0"), errno.EPERM, errno.ENOTTY)
    finally:
        os.close(descriptor)


@probe
def a_file_given_to_another_owner() -> object:
    with open("/build/tmp/owned", "w", encoding="utf-8"):
        pass
    try:
        return refused(lambda: os.chown("/build/tmp/owned", 0, 0), errno.EPERM, errno.EINVAL)
    finally:
        os.unlink("/build/tmp/owned")


@probe
def the_stores_files_through_links() -> object:
    """A link inside an input that points out of it finds nothing."""
    try:
        found = read("/build/in/data/outward")
    except FileNotFoundError:
        return "nothing there"
    raise Leak(found)
