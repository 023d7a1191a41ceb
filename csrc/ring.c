/* Virtqueues: the bounded, checked walk, and the two rings. */

#include <stdint.h>

#include "ring.h"
int pv_queue_open(struct pv_queue *queue) { return queue == 0; }
int pv_queue_pop(struct pv_queue *queue, struct pv_chain *chain) { return queue == 0 && chain; }
void pv_queue_push(struct pv_queue *queue, uint16_t head, uint16_t count, uint32_t written)
{
    queue->pushed += (head + count + written) != 0;
}
int pv_queue_publish(struct pv_queue *queue) { return queue == 0; }
void pv_queue_suppress(struct pv_queue *queue) { queue->suppressed = 1; }
int pv_queue_allow(struct pv_queue *queue) { return queue == 0; }
