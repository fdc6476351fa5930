"""The two seccomp filters of every sandbox, as BPF bytes; built once (some milliseconds), kept and passed by memfd.

The first is an allow-list with ENOSYS for the rest: libraries then fall back (clone3 to clone) where EPERM would
break them. The second forbids what the first can't tell by the call's number; of stacked filters the strictest
answer holds (seccomp(2)). Foreign architectures and x32 are killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Any

ALLOWED = """
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group
faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
futex_wait futex_waitv futex_wake futimesat get_robust_list getcpu getcwd getdents getdents64 getegid geteuid
getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack
membarrier memfd_create mincore mkdir mkdirat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages
removexattr rename renameat renameat2 restart_syscall riscv_flush_icache rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid
write writev
"""

REFUSED = """
acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init fanotify_mark finit_module fsconfig
fsmount fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl
kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind memfd_secret migrate_pages modify_ldt mount
mount_setattr move_mount move_pages name_to_handle_at open_by_handle_at open_tree perf_event_open
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot
request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon syslog
umount2 unshare uselib userfaultfd vhangup vmsplice
"""

NEW_NAMESPACES = 0x7E020000
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, NETLINK_ROUTE = 1, 2, 10, 16, 0
WORD = 0xFFFFFFFF
S_IFMT, S_IFIFO, S_IFCHR, S_IFBLK = 0o170000, 0o010000, 0o020000, 0o060000
S_ISUID, S_ISGID = 0o4000, 0o2000
CHMODS = (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2))  # (call, its mode's argument)
TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423, 0x540E)  # TIOCSTI TIOCLINUX TIOCSETD TIOCSCTTY
PR_SET_PTRACER = 0x59616D61
SOL_SOCKET, SO_LINGER = 1, 13
_CTL_OPTIMIZE = 8  # libseccomp 2.5: a binary tree instead of a list; pyseccomp has no name for it


@dataclass(frozen=True, slots=True)
class Filters:
    """BPF programs in the order in which bubblewrap is to add them."""

    programs: tuple[bytes, ...]


def build() -> Filters:
    """Both filters. Raises ImportError or RuntimeError when libseccomp is missing."""
    return Filters((_allow_list(), _second()))


def _allow_list() -> bytes:
    import pyseccomp as sc  # here: loading it searches for libseccomp.so, which takes a process

    rules = sc.SyscallFilter(defaction=sc.ERRNO(errno.ENOSYS))
    rules.set_attr(sc.Attr.ACT_BADARCH, sc.KILL_PROCESS)
    with contextlib.suppress(OSError, ValueError):  # only speed; unknown to older libraries
        rules.set_attr(_CTL_OPTIMIZE, 2)
    for name in ALLOWED.split():
        _add(rules, sc.ALLOW, name)
    for name in REFUSED.split():
        _add(rules, sc.ERRNO(errno.EPERM), name)
    _add(rules, sc.ALLOW, "clone", sc.Arg(0, sc.MASKED_EQ, NEW_NAMESPACES, 0))
    for persona in (0, WORD):
        _add(rules, sc.ALLOW, "personality", sc.Arg(0, sc.MASKED_EQ, WORD, persona))
    for family in (AF_UNIX, AF_INET, AF_INET6):
        _add(rules, sc.ALLOW, "socket", sc.Arg(0, sc.MASKED_EQ, WORD, family))
    _add(
        rules,
        sc.ALLOW,
        "socket",
        sc.Arg(0, sc.MASKED_EQ, WORD, AF_NETLINK),
        sc.Arg(2, sc.MASKED_EQ, WORD, NETLINK_ROUTE),
    )
    _add(rules, sc.ALLOW, "socketpair", sc.Arg(0, sc.MASKED_EQ, WORD, AF_UNIX))
    for name, argument in (("mknod", 1), ("mknodat", 2)):  # mkfifo, but no device
        _add(rules, sc.ALLOW, name, sc.Arg(argument, sc.MASKED_EQ, S_IFMT, S_IFIFO))
        for kind in (S_IFCHR, S_IFBLK):
            _add(rules, sc.ERRNO(errno.EPERM), name, sc.Arg(argument, sc.MASKED_EQ, S_IFMT, kind))
    return _export(rules)


def _second() -> bytes:
    import pyseccomp as sc

    rules = sc.SyscallFilter(defaction=sc.ALLOW)
    rules.set_attr(sc.Attr.ACT_BADARCH, sc.KILL_PROCESS)
    refuse = sc.ERRNO(errno.EPERM)
    for request in TERMINAL_TRICKS:
        _add(rules, refuse, "ioctl", sc.Arg(1, sc.MASKED_EQ, WORD, request))
    for name, argument in CHMODS:
        for bit in (S_ISUID, S_ISGID):
            _add(rules, refuse, name, sc.Arg(argument, sc.MASKED_EQ, bit, bit))
    _add(rules, refuse, "prctl", sc.Arg(0, sc.MASKED_EQ, WORD, PR_SET_PTRACER))
    # A socket that lingers, sent to a peer that closes it, stops that peer. Refused in silence: servers set it.
    _add(
        rules,
        sc.ERRNO(0),
        "setsockopt",
        sc.Arg(1, sc.MASKED_EQ, WORD, SOL_SOCKET),
        sc.Arg(2, sc.MASKED_EQ, WORD, SO_LINGER),
    )
    return _export(rules)


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    import pyseccomp as sc

    number = sc.resolve_syscall(sc.Arch.NATIVE, name)
    if number < 0:  # not of this architecture, or newer than this libseccomp: the default (ENOSYS) holds
        return
    rules.add_rule(action, number, *arguments)


def _export(rules: Any) -> bytes:
    fd = os.memfd_create("filter", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
