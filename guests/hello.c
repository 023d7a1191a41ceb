/* Says hello with its command line, powers nothing off: the smallest guest there is. */
#include "guest.h"

void main(const void *boot_params)
{
    (void)boot_params;
    print("hello ");
    print(command_line);
    print("\n");
}
