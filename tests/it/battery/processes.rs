//! Rows about other processes, other namespaces and the calls of the kernel. Played by [`super::kernel`].

use super::Row;

pub const ROWS: &[Row] = &[
    Row::new("a new user namespace", "try syscall 272 0x10000000; try syscall 272 0x00020000; try syscall 435 0 0; unshare -Ur id", &[
        "EPERM\nEPERM\nENOSYS",
        "Operation not permitted",
    ])
    .twin("bash -c 'exit 0' & wait $!")
    .covers(&[48]),
    Row::new("another namespace", "for n in user net mount pid; do nsenter --$n=/proc/1/ns/${n/mount/mnt} true; done", &[])
        .each(&[("Permission denied", 4)])
        .twin("readlink /proc/self/ns/net | fine 'net:\\[[0-9]'")
    .covers(&[47, 48]),
    Row::new("a mount", "mount -t tmpfs none /mnt; mount --bind / /tmp; try syscall 166 /proc 0; try syscall 428 -100 / 1; try syscall 430 tmpfs 0", &[
        "EPERM\nEPERM\nEPERM",
    ])
    .each(&[("must be superuser", 2)])
    .twin("df / | fine /; cat /etc/hosts | fine localhost")
    .covers(&[48]),
    Row::new("chroot and pivot_root", "try call chroot /tmp; try syscall 155 / /", &["EPERM\nEPERM"])
        .twin("try call chdir /tmp | fine done")
    .covers(&[48]),
    Row::new("ptrace", "sleep 5 & try syscall 101 16 $! 0 0; try syscall 310 $! 0 0 0 0 0; try syscall 438 3 0 0; try syscall 311 $! 0 0 0 0 0; try syscall 312 $! $! 0 0 0; kill $!", &[
        "EPERM\nEPERM\nEPERM\nEPERM\nEPERM",
    ])
    .twin("sleep 5 & kill -9 $!")
    .covers(&[46]),
    Row::new("pid 1: its environment, root, memory and descriptors", "cat /proc/1/environ; ls /proc/1/root/ /proc/1/fd /proc/1/cwd/; head -c 1 /proc/1/mem; true", &[
        "/proc/1/environ: Permission denied",
        "/proc/1/fd': Permission denied",
        "/proc/1/mem' for reading: Permission denied",
    ])
    .each(&[("Permission denied", 5)])
    .twin("cat /proc/self/environ | fine BB_BOTTLE")
    .covers(&[47, 54]),
    Row::new("killing pid 1", "kill -9 1; kill -STOP 1; kill -TERM 1; sleep 0.1; echo alive", &["alive"])
        .twin("ps -e; ps -e | fine sleep")
    .comes("it lives")
    .covers(&[53]),
    // Its first process, the agent, in a container the parent of each command, and what the row itself starts. (No pattern here may find its own command line.)
    Row::new("other processes", "[ $(ps -e --no-headers | wc -l) -le 9 ] && echo on''ly its own; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; pgrep -f '[_]_controller' || echo no''ne seen", &[
        "only its own",
        "none seen",
        "sleep 600",
    ])
        .twin("pgrep -f 'sleep 600' | fine [0-9]")
    .comes("only its own")
    .covers(&[47]),
    Row::new("the kernel's riskier corners", "try syscall 425 8 0; try syscall 321 0 0 0; try syscall 298 0 0 0 0 0; try syscall 323 0; try syscall 250 0 0 0; try syscall 248 user a b 1 -2; try syscall 169 0xfee1dead 672274793 0; try syscall 304 0 0 0; try syscall 246 0 0 0 0; try syscall 320 0 0 0 0 0", &[
        "ENOSYS\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM",
    ])
    // epoll, eventfd, timerfd, inotify, memfd: what programs use in their place.
    .twin("for call in '291 0' '290 0 0' '283 0 0' '294 0' '319 name 0'; do try syscall $call | fine done; done")
    .covers(&[44, 49]),
    Row::new("odd socket families", "try families 38:1:0 38:3:0 40:1:0 40:3:0 31:1:0 31:3:0 17:1:0 17:3:0 15:1:0 15:3:0 29:1:0 29:3:0 16:3:15 16:3:12", &[])
    .each(&[("EAFNOSUPPORT", 14)])
    .twin("try family 16 3 0 | fine made; try family 1 | fine made; try family 2 | fine made")
    .covers(&[45, 52]),
    Row::new("typing into a terminal", "python3 -c 'import fcntl,os,pty; m,s=pty.openpty(); fcntl.ioctl(s,0x5412,b\"x\")' 2>&1; python3 -c 'import fcntl,pty; m,s=pty.openpty(); fcntl.ioctl(s,0x541c,b\"\\x02\")' 2>&1", &[])
        .each(&[("Operation not permitted", 2)])
        .twin("python3 -c 'import fcntl,os,pty,termios; m,s=pty.openpty(); os.write(m, b\"typed\\n\"); print(os.read(s, 9)); fcntl.ioctl(s, termios.TIOCGWINSZ, bytes(8))' | fine typed")
    .covers(&[51]),
    Row::new("the doors of 32-bit programs", "try syscall $((0x40000000 + 39)); if [ $(uname -m) = x86_64 ]; then try int80 20; case $? in 159 | 139) echo killed ;; esac; else echo killed; fi", &[
        "ENOSYS",
        "killed",
    ])
    .each(&[("did", 0)])
    .comes("`ENOSYS` (x32), `SIGSYS` (32-bit calls)")
    .twin("try syscall 39 | fine done")
    .covers(&[50]),
    Row::new("a program that lies in memory only", "try memfd /usr/bin/grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status", &[
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ])
    .comes("it runs, with no more than any other program of the agent's")
    .covers(&[49, 52]),
    Row::new(
        "environments, roots and memories by way of one's own links",
        "ls /proc/self/root/proc/1/root/ /proc/1/task/1/root/ 2>&1; cat /proc/1/task/1/environ /proc/1/auxv /proc/1/maps",
        &[],
    )
    .each(&[("Permission denied", 5)])
    .twin("ls /proc/self/root/tmp && cat /proc/self/maps | fine '\\['")
    .covers(&[47]),
    Row::new("a daemon that leaves its session and heeds nothing", "setsid bash -c 'trap \"\" HUP TERM INT; sleep 7301 & wait' >/dev/null 2>&1 < /dev/null & for i in 1 2 3 4 5 6 7 8 9; do pgrep -fx 'sleep 7301' && break; sleep 0.1; done; echo looked", &["looked"])
    .comes("it runs, and ends with its bottle")
    .covers(&[53]),
];
