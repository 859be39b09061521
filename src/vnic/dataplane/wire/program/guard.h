/* A thread that ends the program if the main thread hangs when control is gone: nobody else would. */
#ifndef GUARD_H
#define GUARD_H

/* Start it, once, and wait until it runs. `fd` is the control channel. 0 or an errno. */
int guard_start(int fd);

#endif
